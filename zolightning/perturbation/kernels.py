"""What is computed for a weight: a sum of directions, and the weight less such a sum.

The weight is read and written once. Noise and mask are made as it goes, and there is no temporary of the weight's size.
One source of plain torch operations serves every device; where that pays it is compiled into one loop (see
`zolightning.perturbation.compiler`). A weight is taken as four planes, element 16 j + k of each tile of 64 in plane j,
since that is how its noise comes (see `zolightning.perturbation.noise`): a loop over the planes makes the four words of
a counter once and needs no place to keep them. Rows that begin anywhere are taken as rows.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zolightning.perturbation.masks import NUMBERS, Score, mask_of_rows, ranks, selected
from zolightning.perturbation.noise import Counters, field_plane, gaussian_planes, signs, word_planes
from zolightning.perturbation.philox import kept, signed, unsigned
from zolightning.perturbation.ranges import BITS, Kind, placed
from zolightning.perturbation.rounding import stochastic_round, wide

Planes = Sequence[Tensor]
# The numbers of some elements: the counters that make those of whole tiles, or what was made for rows, or was kept.
Noise = Counters | Tensor
TileKernel = Callable[[Any, Planes, "Moving"], None]
RowKernel = Callable[[Tensor, Tensor, Tensor, "Moving"], None]


class Mask(NamedTuple):
    """A selection as a kernel takes it: with the index of each row's or tile's first element, and numbers if any."""

    score: Score
    level: Tensor
    cut: Tensor
    starts: Tensor
    random: Noise | None


class Moving(NamedTuple):
    """A motion of some elements as a kernel takes it; coefficients are [1, queries]."""

    kind: Kind
    directions: Sequence[Noise]
    coefficients: Tensor
    decay: Tensor | None
    mask: Mask | None
    rounding: Noise | None


def stepped(weight: Tensor, change: Tensor, words: Tensor | None) -> Tensor:
    """Return weight - change in the weight's dtype; an element whose change is zero keeps its bits.

    Args:
        weight: of any shape.
        change: in the dtype of the weight's arithmetic, of its shape.
        words: 16-bit random numbers for stochastic rounding, int32, of its shape, or None to round to nearest.
    """
    new = wide(weight) - change
    rounded = new.to(weight.dtype) if words is None else stochastic_round(new, words, weight.dtype)
    return torch.where(change != 0, rounded, weight)


def _change(
    weight: Tensor, coefficients: Sequence[Tensor], zs: Sequence[Tensor], decay: Tensor | None, mask: Tensor | None
) -> Tensor:
    start = wide(weight)
    # In the dtype of the arithmetic, because a 0-dimensional factor would not widen it.
    terms = [coefficient * z.to(start.dtype) for coefficient, z in zip(coefficients, zs, strict=True)]
    change = functools.reduce(operator.add, terms)
    if decay is not None:
        change = change + decay * start
    return change if mask is None else torch.where(mask, change, 0.0)


def subtract_rows(out: Tensor, rows: Tensor, starts: Tensor, moving: Moving) -> None:
    """Do what `subtract` says to rows of a weight."""
    halves = None if moving.rounding is None else _row_numbers("halves", moving.rounding, starts, rows)
    out.copy_(stepped(rows, _row_changes(rows, starts, moving), halves))


def sum_rows(out: Tensor, rows: Tensor, starts: Tensor, moving: Moving) -> None:
    """Do what `sum_into` says to rows of a weight."""
    out.copy_(_row_changes(rows, starts, moving))


def _row_changes(rows: Tensor, starts: Tensor, moving: Moving) -> Tensor:
    mask = None
    if moving.mask is not None:
        score, level, cut, _, random = moving.mask
        numbers = None if random is None else _row_numbers(NUMBERS[score], random, starts, rows)
        mask = mask_of_rows(ranks(score, rows, numbers), starts, level, cut)
    zs = [_row_numbers(moving.kind, words, starts, rows) for words in moving.directions]
    return _change(rows, moving.coefficients[0].unbind(), zs, moving.decay, mask)


def _row_numbers(kind: Kind, words: Noise, starts: Tensor, rows: Tensor) -> Tensor:
    assert isinstance(words, Tensor)
    return placed(kind, words, starts, rows.size(1))


def subtract_tiles(outs: Planes | None, weights: Planes, moving: Moving) -> None:
    """Do what `subtract` says to the planes of some tiles."""
    halves = (None,) * 4 if moving.rounding is None else _cut(moving.rounding, "halves", weights[0].size(0))
    changes = _tile_changes(weights, moving)
    for out, weight, change, words in zip(outs or weights, weights, changes, halves, strict=True):
        out.copy_(stepped(weight, change, words))


def subtract_turns(weights: Planes, where: Counters, places: Tensor, coefficients: Tensor) -> None:
    """Do what `subtract` says to the planes of some tiles in their own place, one motion after the other, unrounded.

    Args:
        weights: the planes.
        where: the counters of each motion's one direction, of signs, but for its place.
        places: of the directions, [1, motions x 23, 16]; see `Counters`.
        coefficients: of the directions [1, motions].
    """
    moved = list(weights)
    count = coefficients.size(1)
    for place, coefficient in zip(places.chunk(count, 1), coefficients.chunk(count, 1), strict=True):
        moving = Moving("signs", [where._replace(place=place)], coefficient, None, None, None)
        changes = _tile_changes(moved, moving)
        moved = [stepped(weight, change, None) for weight, change in zip(moved, changes, strict=True)]
    for weight, new in zip(weights, moved, strict=True):
        weight.copy_(new)


def sum_tiles(outs: Planes, weights: Planes, moving: Moving) -> None:
    """Do what `sum_into` says to the planes of some tiles."""
    for out, change in zip(outs, _tile_changes(weights, moving), strict=True):
        out.copy_(change)


def _tile_changes(weights: Planes, moving: Moving) -> list[Tensor]:
    coefficients = moving.coefficients[0].unbind()
    zs = [_direction_planes(moving.kind, noise, weights[0].size(0)) for noise in moving.directions]
    return [
        _change(weight, coefficients, [planes[number] for planes in zs], moving.decay, mask)
        for number, (weight, mask) in enumerate(zip(weights, _mask_planes(moving.mask, weights), strict=True))
    ]


def _direction_planes(kind: Kind, where: Noise, tiles: int) -> Planes:
    if kind == "signs":
        return [signs(bits) for bits in _cut(where, kind, tiles)]
    assert isinstance(where, Counters)
    return gaussian_planes(where)


def _cut(where: Noise, kind: Kind, tiles: int) -> Planes:
    """Make words, of which each serves several tiles, and cut them into the tiles' fields, int32 [tiles, 16]."""
    assert isinstance(where, Counters)
    # As floats, which code for a CPU reads as it computes: see `Counters`.
    words = [signed(word).view(torch.float32) for word in word_planes(where)]
    return [field_plane(kept(word), BITS[kind], tiles) for word in words]


def _mask_planes(mask: Mask | None, weights: Planes) -> Sequence[Tensor | None]:
    if mask is None:
        return (None,) * 4
    random: Sequence[Tensor | None] = (None,) * 4
    if isinstance(mask.random, Tensor):
        random = [signs(field_plane(word, 1, weights[0].size(0))) for word in mask.random.unbind(1)]
    elif mask.random is not None:
        random = [unsigned(word) for word in word_planes(mask.random)]
    index = mask.starts.unsqueeze(1) + torch.arange(weights[0].size(1), device=weights[0].device)
    return [
        selected(ranks(mask.score, weight, words), index + 16 * number, mask.level, mask.cut)
        for number, (weight, words) in enumerate(zip(weights, random, strict=True))
    ]
