"""Parts of parameters with the sum of their directions, for updates that are not linear in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.kernels import stepped
from zolightning.perturbation.masks import mask_at
from zolightning.perturbation.motion import Motion, sum_into
from zolightning.perturbation.noise import Stream, unit
from zolightning.perturbation.ranges import BITS, in_order, made
from zolightning.perturbation.rounding import wide, wide_dtype

# Elements of a piece, whole units of every kind of noise: a rule may need a few numbers for each of them for a while.
_ELEMENTS = {"cpu": 1 << 20}
# Elsewhere launches count.
_MORE_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Piece:
    """Some successive elements of a parameter.

    Args:
        name: of the parameter.
        first: the index in the parameter of the piece's first element.
        weight: the elements, a flat view of the parameter [n].
        estimate: the sum over the directions, zero outside of the mask, in the dtype of the weight's arithmetic [n];
            overwritten when the next piece is made.
        mask: which elements may move, bool [n], or None for all.
        words: 16-bit random numbers for stochastic rounding, int32 [n], or None to round to nearest.
    """

    name: str
    first: int
    weight: Tensor
    estimate: Tensor
    mask: Tensor | None
    words: Tensor | None

    def of(self, state: Tensor) -> Tensor:
        """Return the same elements of a tensor of the parameter's shape, a flat view [n]."""
        return state.view(-1)[self.first : self.first + self.weight.numel()]

    def subtract(self, change: Tensor, decay: Tensor | None) -> None:
        """Subtract change + decay theta from the weights that may move.

        Args:
            change: in the dtype of the weight's arithmetic [n].
            decay: learning rate times weight decay [], or None for no decay.
        """
        subtract_from(self.weight, change, decay, self.mask, self.words)


def subtract_from(
    weight: Tensor, change: Tensor, decay: Tensor | None, mask: Tensor | None, words: Tensor | None
) -> None:
    """Subtract change + decay theta from the elements of a weight that may move; arguments as `Piece` has them."""
    if decay is not None:
        change = change + decay * wide(weight)
    if mask is not None:
        change = torch.where(mask, change, 0.0)
    weight.copy_(stepped(weight, change, words))


def in_pieces(name: str, flat: Tensor, motion: Motion, rounding: Stream | None, compiler: Compiler) -> Iterator[Piece]:
    """Yield a parameter in pieces.

    Args:
        name: of the parameter.
        flat: the parameter, flat [n].
        motion: the directions and their shares, and the mask.
        rounding: the stream of the rounding lane, or None to round to nearest.
        compiler: runs kernels compiled or eager.
    """
    size = _ELEMENTS.get(flat.device.type, _MORE_ELEMENTS)
    buffer = flat.new_empty(min(size, flat.numel()), dtype=wide_dtype(flat.dtype))
    for first in range(0, flat.numel(), size):
        weight = flat[first : first + size]
        estimate, start = buffer[: weight.numel()], torch.full((1,), first, dtype=torch.int64, device=flat.device)
        sum_into(estimate, weight, motion, compiler, first)
        chosen = motion.selection
        mask = None if chosen is None else mask_at(chosen, weight.unsqueeze(0), start, compiler)[0]
        words = None if rounding is None else _halves(rounding, weight, first, compiler)
        yield Piece(name, first, weight, estimate, mask, words)


def _halves(stream: Stream, weight: Tensor, first: int, compiler: Compiler) -> Tensor:
    size = unit(BITS["halves"])
    numbers = torch.arange(first // size, -(-(first + weight.numel()) // size), device=weight.device)
    return in_order("halves", made("halves", stream, numbers, None, compiler))[: weight.numel()]
