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
from zolightning.perturbation.shards import Part, local_part
from zolightning.perturbation.windows import chunks_of, overlap

# Elements of a piece, whole units of every kind of noise: a rule may need a few numbers for each of them for a while.
_ELEMENTS = {"cpu": 1 << 20}
# Elsewhere launches count.
_MORE_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Piece:
    """Some successive elements of a parameter.

    Args:
        name: of the parameter.
        first: the number of the piece's first element among those of the parameter that this process holds.
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
        """Return the same elements of a tensor of the parameter's shape, sharded as it is, a flat view [n]."""
        return local_part(state).flat[self.first : self.first + self.weight.numel()]

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


def in_pieces(name: str, part: Part, motion: Motion, rounding: Stream | None, compiler: Compiler) -> Iterator[Piece]:
    """Yield a parameter, or what this process holds of it, in pieces.

    Args:
        name: of the parameter.
        part: what of it is at hand.
        motion: the directions and their shares, and the mask.
        rounding: the stream of the rounding lane, or None to round to nearest.
        compiler: runs kernels compiled or eager.
    """
    flat = part.flat
    size = _ELEMENTS.get(flat.device.type, _MORE_ELEMENTS)
    buffer = flat.new_empty(min(size, flat.numel()), dtype=wide_dtype(flat.dtype))
    here = range(part.first, part.first + flat.numel())
    for chunk in chunks_of(range(part.size), size):
        if not (held := overlap(chunk, here)):
            continue
        weight = part.slice(held.start, held.stop)
        estimate, start = buffer[: len(held)], torch.full((1,), held.start, dtype=torch.int64, device=flat.device)
        sum_into(estimate, weight, motion, compiler, held.start, chunk)
        chosen = motion.selection
        mask = None if chosen is None else mask_at(chosen, weight.unsqueeze(0), start, compiler)[0]
        words = None if rounding is None else _halves(rounding, held, flat.device, compiler)
        yield Piece(name, held.start - part.first, weight, estimate, mask, words)


def _halves(stream: Stream, held: range, device: torch.device, compiler: Compiler) -> Tensor:
    size = unit(BITS["halves"])
    numbers = torch.arange(held.start // size, -(-held.stop // size), device=device)
    words = in_order("halves", made("halves", stream, numbers, None, compiler))
    return words[held.start % size :][: len(held)]
