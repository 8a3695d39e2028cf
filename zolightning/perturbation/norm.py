"""The norm of a Gaussian direction, from its counters, without keeping the direction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.motion import chunk_size
from zolightning.perturbation.noise import TILE, Counters, Stream, counters, gaussian_planes
from zolightning.perturbation.ranges import range_of


def squared_norm(
    sizes: Mapping[str, int], streams: Mapping[str, Stream], device: torch.device, compiler: Compiler
) -> Tensor:
    """Return the sum of squares of the normal numbers of all parameters, float64 [].

    Args:
        sizes: the elements of each parameter, by name.
        streams: each parameter's stream.
        device: where to make the numbers.
        compiler: runs the kernel compiled or eager.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for name, size in sizes.items():
        whole = size // TILE
        tiles = chunk_size(device) // TILE
        for first in range(0, whole, tiles):
            count = min(tiles, whole - first)
            sums = torch.empty(count, 1, device=device)
            where = counters(streams[name], device, count, first, compiler.word_dtype(device))
            compiler.run(_sum_of_squares, count, sums, where)
            total = total + sums.sum(dtype=torch.float64)
        if size % TILE:
            tail = range_of("gaussian", streams[name], whole * TILE, size, device)
            total = total + tail.double().square().sum()
    return total


def _sum_of_squares(out: Tensor, where: Counters) -> None:
    """Write the sum over each tile, float32 [tiles, 1]: float64 would cost the loop its width."""
    a, b, c, d = gaussian_planes(where)
    out.copy_((a * a + b * b + c * c + d * d).sum(1, keepdim=True))
