"""The one thing that is done to a weight: a motion is subtracted from it, in its own place or into another.

The weight is read and written once. Noise and mask are made as it goes, and there is no temporary of the weight's size.
One source of plain torch operations serves every device; torch.compile fuses it into one loop where that pays (see
`zolightning.perturbation.compiler`). A weight is taken as four planes, element 16 j + k of each tile of 64 in plane j,
since that is how its noise comes (see `zolightning.perturbation.noise`): a loop over the planes makes the four words of
a counter once and needs no place to keep them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.masks import Score, Selection, level, mask_at, ranks, selected
from zolightning.perturbation.noise import (
    TILE,
    Counters,
    Stream,
    counters,
    field_plane,
    gaussian_planes,
    signs,
    unit,
    word_planes,
)
from zolightning.perturbation.ranges import BITS, Kind, made, noise_at
from zolightning.perturbation.rounding import stochastic_round, wide

Rounding = Literal["stochastic", "nearest"]

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
    for start, stop in _chunks(weight):
        planes = None if out is None else _planes(out[start:stop])
        noise = _noise(motion, weight.device, first + start, (stop - start) // TILE, compiler)
        mask = _mask_for(motion.selection, weight, first + start, (stop - start) // TILE)
        moving = (_planes(weight[start:stop]), motion.coefficients, noise.directions, motion.decay, mask, noise.words)
        compiler.run(_subtract, (stop - start) // unit(1), planes, *moving)
    if tail := weight.numel() % TILE:
        starts = torch.full((1,), first + weight.numel() - tail, dtype=torch.int64, device=weight.device)
        place = weight if out is None else out
        place[-tail:] = moved_rows(weight[-tail:].unsqueeze(0), starts, motion, compiler)[0]


def moved_rows(rows: Tensor, starts: Tensor, motion: Motion, compiler: Compiler) -> Tensor:
    """Return rows of a weight [rows, width] as `subtract` would leave them.

    Args:
        rows: as they are [rows, width].
        starts: the index in the parameter of each row's first element, int64 [rows].
        motion: what to subtract.
        compiler: runs the generator compiled or eager.
    """
    width, selection = rows.size(1), motion.selection
    zs = [noise_at(motion.kind, stream, starts, width, compiler) for stream in motion.streams]
    mask = None if selection is None else mask_at(selection, rows, starts, compiler)
    words = None if motion.rounding is None else noise_at("halves", motion.rounding, starts, width, compiler)
    return stepped(rows, _change(rows, motion.coefficients, zs, motion.decay, mask), words)


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
    weight: Tensor, coefficients: Tensor, zs: Sequence[Tensor], decay: Tensor | None, mask: Tensor | None
) -> Tensor:
    start = wide(weight)
    # In the dtype of the arithmetic, because a 0-dimensional factor would not widen it.
    change = coefficients[0] * zs[0].to(start.dtype)
    for query, z in enumerate(zs[1:], 1):
        change = change + coefficients[query] * z.to(start.dtype)
    if decay is not None:
        change = change + decay * start
    return change if mask is None else torch.where(mask, change, 0.0)


_Planes = Sequence[Tensor]
# Normal numbers are made from counters inside the kernel; signs are cut from words made just before, 128 a counter.
_Direction = Counters | Tensor


class _Noise(NamedTuple):
    """The noise of some tiles as the kernel takes it: the directions', and words for rounding."""

    directions: list[_Direction]
    words: Tensor | None


class _Mask(NamedTuple):
    """A selection as the kernel takes it."""

    score: Score
    level: Tensor
    cut: Tensor
    where: Counters


def _subtract(
    outs: _Planes | None,
    weights: _Planes,
    coefficients: Tensor,
    directions: Sequence[_Direction],
    decay: Tensor | None,
    mask: _Mask | None,
    words: Tensor | None,
) -> None:
    """Do what `subtract` says to the planes of some tiles."""
    masks = _mask_planes(mask, weights)
    zs = [_direction_planes(direction, weights) for direction in directions]
    for number, (weight, chosen) in enumerate(zip(weights, masks, strict=True)):
        change = _change(weight, coefficients, [planes[number] for planes in zs], decay, chosen)
        halves = None if words is None else field_plane(words, number, BITS["halves"], weight.size(0))
        out = weight if outs is None else outs[number]
        out.copy_(stepped(weight, change, halves))


def _direction_planes(direction: _Direction, weights: _Planes) -> _Planes:
    if isinstance(direction, Tensor):
        return [signs(field_plane(direction, number, BITS["signs"], weights[0].size(0))) for number in range(4)]
    return gaussian_planes(direction)


def _mask_planes(mask: _Mask | None, weights: _Planes) -> Sequence[Tensor | None]:
    if mask is None:
        return (None,) * 4
    random = word_planes(mask.where) if mask.score == "random" else (None,) * 4
    # A block of 16 counters serves a tile of 64 elements.
    first = mask.where.blocks.unsqueeze(1) * 4 + mask.where.lanes
    return [
        selected(ranks(mask.score, weight, words), first + 16 * number, mask.level, mask.cut)
        for number, (weight, words) in enumerate(zip(weights, random, strict=True))
    ]


def _chunks(weight: Tensor) -> Iterator[tuple[int, int]]:
    """Yield the bounds of chunks of whole tiles."""
    whole, size = weight.numel() // TILE * TILE, _CHUNK.get(weight.device.type, _LARGE_CHUNK)
    for start in range(0, whole, size):
        yield start, min(start + size, whole)


def _planes(flat: Tensor) -> tuple[Tensor, ...]:
    return flat.view(-1, 4, TILE // 4).unbind(1)


def _noise(motion: Motion, device: torch.device, first: int, tiles: int, compiler: Compiler) -> _Noise:
    def direction(stream: Stream) -> _Direction:
        if motion.kind == "signs":
            return _drawn("signs", stream, device, first, tiles, compiler)
        return counters(stream, device, tiles, first // TILE)

    rounding = motion.rounding
    words = None if rounding is None else _drawn("halves", rounding, device, first, tiles, compiler)
    return _Noise([direction(stream) for stream in motion.streams], words)


def _drawn(kind: Kind, stream: Stream, device: torch.device, first: int, tiles: int, compiler: Compiler) -> Tensor:
    """Draw the words that some tiles' fields are cut from, int32 [units, 4, 16]."""
    size = unit(BITS[kind])
    start = first // size
    # One more than there are whole units of tiles, so that compiled code need not know whether the last one is whole.
    numbers = torch.arange(start, start + tiles * TILE // size + 1, device=device)
    return made(kind, stream, numbers, None, compiler)


def _mask_for(selection: Selection | None, weight: Tensor, first: int, tiles: int) -> _Mask | None:
    if selection is None:
        return None
    where = counters(selection.stream, weight.device, tiles, first // TILE)
    return _Mask(selection.score, level(selection, weight.dtype), selection.cut, where)
