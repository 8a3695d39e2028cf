"""The two things that are done to a weight: perturb it into scratch, and update it. Each reads and writes it once.

Both work on chunks of a flat weight, make noise and mask as they go, and leave no temporary of the weight's size. One
source of plain torch operations serves every device; torch.compile fuses it into one loop where that pays (see
`zolightning.perturbation.compiler`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.masks import Score, Selection, keys, selected
from zolightning.perturbation.noise import Stream, stream_gaussian, stream_raw
from zolightning.perturbation.rounding import stochastic_round

Rounding = Literal["stochastic", "nearest"]

_CHUNK = 1 << 18


@dataclass(frozen=True)
class _MaskArguments:
    """A selection as a kernel takes it; without one, placeholders that the kernel does not read."""

    score: Score | None
    threshold: Tensor
    cut: Tensor
    stream: Stream | None

    @classmethod
    def of(cls, selection: Selection | None, device: torch.device) -> _MaskArguments:
        if selection is None:
            nothing = torch.zeros((), dtype=torch.int64, device=device)
            return cls(None, nothing, nothing, None)
        return cls(selection.score, selection.threshold, selection.cut, selection.stream)

    def words(self, default: Tensor, start: int) -> Tensor:
        return default if self.stream is None else self.stream.words(default.device, start)


def perturb_into(
    out: Tensor,
    weight: Tensor,
    scale: Tensor,
    stream: Stream,
    selection: Selection | None,
    compiler: Compiler,
) -> None:
    """Write weight + scale z into `out`, where selected, and the weight elsewhere; `out` may be the weight itself.

    The sum is made in float32 (float64 for float64 weights) and rounded once, to nearest.

    Args:
        out: flat, contiguous, of the weight's dtype [n].
        weight: flat, contiguous [n].
        scale: plus or minus the smoothing parameter, float32 or float64 [].
        stream: the direction's stream.
        selection: the mask, or None for a dense direction.
        compiler: runs the kernel compiled or eager.
    """
    mask = _MaskArguments.of(selection, weight.device)
    for start, stop in _chunks(weight.numel()):
        place = stream.words(weight.device, start)
        part = weight[start:stop]
        compiler.run(
            _perturb,
            part.numel(),
            out[start:stop],
            part,
            scale,
            place,
            mask.score,
            mask.threshold,
            mask.cut,
            mask.words(place, start),
        )


def update_(
    weight: Tensor,
    coefficients: Tensor,
    decay: Tensor,
    streams: Sequence[Stream],
    selection: Selection | None,
    rounding: Stream | None,
    compiler: Compiler,
) -> None:
    """Subtract sum_i coefficients[i] z_i + decay weight from the selected elements of a weight, in place.

    An element whose change is zero keeps its bits.

    Args:
        weight: flat, contiguous [n].
        coefficients: learning rate times the projected gradient's share of each query, float32 or float64 [queries].
        decay: learning rate times weight decay, of the coefficients' dtype [].
        streams: the directions' streams, one a query.
        selection: the mask, or None for a dense update.
        rounding: the stream of the rounding lane for stochastic rounding, or None to round to nearest.
        compiler: runs the kernel compiled or eager.
    """
    mask = _MaskArguments.of(selection, weight.device)
    for start, stop in _chunks(weight.numel()):
        places = [stream.words(weight.device, start) for stream in streams]
        part = weight[start:stop]
        compiler.run(
            _update,
            part.numel(),
            part,
            coefficients,
            decay,
            places,
            mask.score,
            mask.threshold,
            mask.cut,
            mask.words(places[0], start),
            None if rounding is None else rounding.words(weight.device, start),
        )


def wide(weight: Tensor) -> Tensor:
    """Return a weight in the dtype of its arithmetic: float32, or float64 for float64 weights."""
    return weight.to(wide_dtype(weight.dtype))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that a weight's arithmetic is done in."""
    return torch.promote_types(dtype, torch.float32)


def subtract_(weight: Tensor, change: Tensor, words: Tensor | None) -> None:
    """Subtract a change from a weight in place; an element whose change is zero keeps its bits.

    Args:
        weight: flat [n].
        change: in the dtype of the weight's arithmetic [n].
        words: random words for stochastic rounding, int64 [n], or None to round to nearest.
    """
    start = wide(weight)
    new = torch.where(change != 0, start - change, start)
    weight.copy_(new if words is None else stochastic_round(new, words, weight.dtype))


def _chunks(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, _CHUNK):
        yield start, min(start + _CHUNK, size)


def _direction(place: Tensor, like: Tensor) -> Tensor:
    # In the dtype of the arithmetic, because a 0-dimensional factor would not widen it.
    return stream_gaussian(place, like.numel()).to(like.dtype)


def _perturb(
    out: Tensor,
    weight: Tensor,
    scale: Tensor,
    place: Tensor,
    score: Score | None,
    threshold: Tensor,
    cut: Tensor,
    mask_words: Tensor,
) -> None:
    start = wide(weight)
    moved = start + scale * _direction(place, start)
    if score is not None:
        mask = selected(keys(score, weight, mask_words), place[0] * 4, threshold, cut)
        moved = torch.where(mask, moved, start)
    out.copy_(moved)


def _update(
    weight: Tensor,
    coefficients: Tensor,
    decay: Tensor,
    places: list[Tensor],
    score: Score | None,
    threshold: Tensor,
    cut: Tensor,
    mask_words: Tensor,
    rounding_words: Tensor | None,
) -> None:
    start = wide(weight)
    change = coefficients[0] * _direction(places[0], start)
    for query, place in enumerate(places[1:], 1):
        change = change + coefficients[query] * _direction(place, start)
    change = change + decay * start
    if score is not None:
        mask = selected(keys(score, weight, mask_words), places[0][0] * 4, threshold, cut)
        change = torch.where(mask, change, 0.0)
    subtract_(weight, change, None if rounding_words is None else stream_raw(rounding_words, weight.numel()))
