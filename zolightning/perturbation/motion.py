"""The one thing that is done to a weight: a motion is subtracted from it, in its own place or into another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.kernels import (
    Mask,
    Moving,
    Noise,
    RowKernel,
    TileKernel,
    subtract_rows,
    subtract_tiles,
    sum_rows,
    sum_tiles,
)
from zolightning.perturbation.masks import Selection, level
from zolightning.perturbation.noise import TILE, Counters, Stream, counters, firsts, unit
from zolightning.perturbation.ranges import BITS, Kind, words_for

# Elements a kernel works on at once. On a CPU the words of rounding and signs stay in cache; elsewhere launches count.
_CHUNK = {"cpu": 1 << 20}
_LARGE_CHUNK = 1 << 24


@dataclass(frozen=True)
class Motion:
    """What is subtracted from a parameter: sum_i coefficients[i] z_i + decay theta, on the selected elements.

    Args:
        kind: what the directions are made of.
        streams: the parameter's stream of each direction, one a query (or a step of a journal).
        coefficients: of the directions, in the dtype of the weight's arithmetic [queries]. For a probe at
            theta + eps z, minus eps; for an update, learning rate times the projected gradient's share.
        decay: learning rate times weight decay, of the coefficients' dtype [], or None for no decay.
        selection: the mask, or None where all elements move.
        rounding: the stream of the rounding lane for stochastic rounding, or None to round to nearest.
    """

    kind: Kind
    streams: Sequence[Stream]
    coefficients: Tensor
    decay: Tensor | None = None
    selection: Selection | None = None
    rounding: Stream | None = None


def subtract(weight: Tensor, motion: Motion, compiler: Compiler, out: Tensor | None = None, first: int = 0) -> None:
    """Subtract a motion from a weight, in place or into `out`; an element whose change is zero keeps its bits.

    Sums are made in float32 (float64 for float64 weights) and rounded once.

    Args:
        weight: flat, contiguous [n].
        motion: what to subtract.
        compiler: runs the kernel compiled or eager.
        out: flat, contiguous, of the weight's dtype [n], or None for the weight's own place.
        first: the index in the parameter of the weight's first element, a multiple of `unit(1)`.
    """
    _run((subtract_tiles, subtract_rows), weight, motion, compiler, out, first)


def sum_into(out: Tensor, weight: Tensor, motion: Motion, compiler: Compiler, first: int = 0) -> None:
    """Write sum_i coefficients[i] z_i on the selected elements, and 0 on the others, into `out`.

    Args:
        out: flat, contiguous, in the dtype of the weight's arithmetic [n].
        weight: flat, contiguous; the mask goes by it [n].
        motion: what to sum; it has no decay and no rounding.
        compiler: runs the kernel compiled or eager.
        first: the index in the parameter of the weight's first element, a multiple of `unit(1)`.
    """
    _run((sum_tiles, sum_rows), weight, motion, compiler, out, first)


def moved_rows(rows: Tensor, starts: Tensor, motion: Motion, compiler: Compiler) -> Tensor:
    """Return rows of a weight [rows, width] as `subtract` would leave them.

    Args:
        rows: as they are [rows, width].
        starts: the index in the parameter of each row's first element, int64 [rows].
        motion: what to subtract.
        compiler: runs the kernels compiled or eager.
    """
    out = torch.empty_like(rows)
    _run_rows(subtract_rows, out, rows, starts, motion, compiler)
    return out


def _run(
    kernels: tuple[TileKernel, RowKernel],
    weight: Tensor,
    motion: Motion,
    compiler: Compiler,
    out: Tensor | None,
    first: int,
) -> None:
    """Run a kernel on whole tiles, chunk by chunk, and its like for rows on the rest."""
    for start, stop in _chunks(weight):
        tiles, begin = (stop - start) // TILE, (first + start) // TILE
        starts = None if motion.selection is None else firsts(weight.device, tiles, begin)
        moving = _moving(motion, weight.dtype, starts, partial(_serving, weight.device, tiles, begin))
        planes = None if out is None else _planes(out[start:stop])
        compiler.run(kernels[0], (stop - start) // unit(1), planes, _planes(weight[start:stop]), moving)
    if tail := weight.numel() % TILE:
        starts = torch.full((1,), first + weight.numel() - tail, dtype=torch.int64, device=weight.device)
        end = (weight if out is None else out)[-tail:].unsqueeze(0)
        _run_rows(kernels[1], end, weight[-tail:].unsqueeze(0), starts, motion, compiler)


def _run_rows(kernel: RowKernel, out: Tensor, rows: Tensor, starts: Tensor, motion: Motion, compiler: Compiler) -> None:
    def words(kind: Kind, stream: Stream) -> Tensor:
        return words_for(kind, stream, starts, rows.size(1), compiler)

    compiler.run(kernel, rows.size(0), out, rows, starts, _moving(motion, rows.dtype, starts, words))


def _moving(
    motion: Motion, dtype: torch.dtype, starts: Tensor | None, noise: Callable[[Kind, Stream], Noise]
) -> Moving:
    chosen, mask = motion.selection, None
    if chosen is not None:
        assert starts is not None
        random = noise("keys", chosen.stream) if chosen.score == "random" else None
        mask = Mask(chosen.score, level(chosen, dtype), chosen.cut, starts, random)
    directions = [noise(motion.kind, stream) for stream in motion.streams]
    rounding = None if motion.rounding is None else noise("halves", motion.rounding)
    return Moving(motion.kind, directions, motion.coefficients.unsqueeze(0), motion.decay, mask, rounding)


def chunk_size(device: torch.device) -> int:
    """Return how many elements a kernel works on at once, a multiple of `unit(1)`."""
    return _CHUNK.get(device.type, _LARGE_CHUNK)


def _chunks(weight: Tensor) -> Iterator[tuple[int, int]]:
    """Yield the bounds of chunks of whole tiles."""
    whole, size = weight.numel() // TILE * TILE, chunk_size(weight.device)
    for start in range(0, whole, size):
        yield start, min(start + size, whole)


def _planes(flat: Tensor) -> tuple[Tensor, ...]:
    return flat.view(-1, 4, TILE // 4).unbind(1)


def _serving(device: torch.device, tiles: int, first: int, kind: Kind, stream: Stream) -> Counters:
    """Return the counters that serve some tiles, from a tile on with which a unit begins."""
    share = unit(BITS[kind]) // TILE
    # One more than there are whole units of tiles, so that compiled code need not know whether the last one is whole.
    return counters(stream, device, tiles if share == 1 else tiles // share + 1, first // share)
