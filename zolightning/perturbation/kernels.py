"""The one thing that is done to a weight: a motion is subtracted from it, in its own place or into another.

The weight is read and written once. Noise and mask are made as it goes, and there is no temporary of the weight's size.
One source of plain torch operations serves every device; torch.compile fuses it into one loop where that pays (see
`zolightning.perturbation.compiler`). A weight is taken as four planes, element 16 j + k of each tile of 64 in plane j,
since that is how its noise comes (see `zolightning.perturbation.noise`): a loop over the planes makes the four words of
a counter once and needs no place to keep them.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.masks import Score, Selection, level, ranks, selected
from zolightning.perturbation.noise import (
    TILE,
    Counters,
    Stream,
    counters,
    field_plane,
    firsts,
    gaussian_planes,
    signed,
    signs,
    unit,
    word_planes,
)
from zolightning.perturbation.ranges import BITS, Kind, placed, words_for
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
    _run((_subtract_tiles, _subtract_rows), weight, motion, compiler, out, first)


def sum_into(out: Tensor, weight: Tensor, motion: Motion, compiler: Compiler, first: int = 0) -> None:
    """Write sum_i coefficients[i] z_i on the selected elements, and 0 on the others, into `out`.

    Args:
        out: flat, contiguous, in the dtype of the weight's arithmetic [n].
        weight: flat, contiguous; the mask goes by it [n].
        motion: what to sum; it has no decay and no rounding.
        compiler: runs the kernel compiled or eager.
        first: the index in the parameter of the weight's first element, a multiple of `unit(1)`.
    """
    _run((_sum_tiles, _sum_rows), weight, motion, compiler, out, first)


def moved_rows(rows: Tensor, starts: Tensor, motion: Motion, compiler: Compiler) -> Tensor:
    """Return rows of a weight [rows, width] as `subtract` would leave them.

    Args:
        rows: as they are [rows, width].
        starts: the index in the parameter of each row's first element, int64 [rows].
        motion: what to subtract.
        compiler: runs the kernels compiled or eager.
    """
    out = torch.empty_like(rows)
    _run_rows(_subtract_rows, out, rows, starts, motion, compiler)
    return out


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


_Planes = Sequence[Tensor]
# The random numbers of some elements: the counters that make those of whole tiles, or what was made for rows.
_Noise = Counters | Tensor
_TileKernel = Callable[[Any, _Planes, "_Moving"], None]
_RowKernel = Callable[[Tensor, Tensor, Tensor, "_Moving"], None]


class _Mask(NamedTuple):
    """A selection as a kernel takes it: with the index of each row's or tile's first element, and words if random."""

    score: Score
    level: Tensor
    cut: Tensor
    starts: Tensor
    random: _Noise | None


class _Moving(NamedTuple):
    """A motion of some elements as a kernel takes it; coefficients are [1, queries]."""

    kind: Kind
    directions: Sequence[_Noise]
    coefficients: Tensor
    decay: Tensor | None
    mask: _Mask | None
    rounding: _Noise | None


def _run(
    kernels: tuple[_TileKernel, _RowKernel],
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


def _run_rows(
    kernel: _RowKernel, out: Tensor, rows: Tensor, starts: Tensor, motion: Motion, compiler: Compiler
) -> None:
    def words(kind: Kind, stream: Stream) -> Tensor:
        return words_for(kind, stream, starts, rows.size(1), compiler)

    compiler.run(kernel, rows.size(0), out, rows, starts, _moving(motion, rows.dtype, starts, words))


def _moving(
    motion: Motion, dtype: torch.dtype, starts: Tensor | None, noise: Callable[[Kind, Stream], _Noise]
) -> _Moving:
    chosen, mask = motion.selection, None
    if chosen is not None:
        assert starts is not None
        random = noise("keys", chosen.stream) if chosen.score == "random" else None
        mask = _Mask(chosen.score, level(chosen, dtype), chosen.cut, starts, random)
    directions = [noise(motion.kind, stream) for stream in motion.streams]
    rounding = None if motion.rounding is None else noise("halves", motion.rounding)
    return _Moving(motion.kind, directions, motion.coefficients.unsqueeze(0), motion.decay, mask, rounding)


def _subtract_rows(out: Tensor, rows: Tensor, starts: Tensor, moving: _Moving) -> None:
    """Do what `subtract` says to rows of a weight."""
    halves = None if moving.rounding is None else _row_numbers("halves", moving.rounding, starts, rows)
    out.copy_(stepped(rows, _row_changes(rows, starts, moving), halves))


def _sum_rows(out: Tensor, rows: Tensor, starts: Tensor, moving: _Moving) -> None:
    """Do what `sum_into` says to rows of a weight."""
    out.copy_(_row_changes(rows, starts, moving))


def _row_changes(rows: Tensor, starts: Tensor, moving: _Moving) -> Tensor:
    mask = None
    if moving.mask is not None:
        score, level, cut, _, random = moving.mask
        rank = ranks(score, rows, None if random is None else _row_numbers("keys", random, starts, rows))
        mask = selected(rank, starts.unsqueeze(1) + torch.arange(rows.size(1), device=rows.device), level, cut)
    zs = [_row_numbers(moving.kind, words, starts, rows) for words in moving.directions]
    return _change(rows, moving.coefficients[0].unbind(), zs, moving.decay, mask)


def _row_numbers(kind: Kind, words: _Noise, starts: Tensor, rows: Tensor) -> Tensor:
    assert isinstance(words, Tensor)
    return placed(kind, words, starts, rows.size(1))


def _subtract_tiles(outs: _Planes | None, weights: _Planes, moving: _Moving) -> None:
    """Do what `subtract` says to the planes of some tiles."""
    halves = (None,) * 4 if moving.rounding is None else _cut(moving.rounding, "halves", weights[0].size(0))
    changes = _tile_changes(weights, moving)
    for out, weight, change, words in zip(outs or weights, weights, changes, halves, strict=True):
        out.copy_(stepped(weight, change, words))


def _sum_tiles(outs: _Planes, weights: _Planes, moving: _Moving) -> None:
    """Do what `sum_into` says to the planes of some tiles."""
    for out, change in zip(outs, _tile_changes(weights, moving), strict=True):
        out.copy_(change)


def _tile_changes(weights: _Planes, moving: _Moving) -> list[Tensor]:
    coefficients = moving.coefficients[0].unbind()
    zs = [_direction_planes(moving.kind, noise, weights[0].size(0)) for noise in moving.directions]
    return [
        _change(weight, coefficients, [planes[number] for planes in zs], moving.decay, mask)
        for number, (weight, mask) in enumerate(zip(weights, _mask_planes(moving.mask, weights), strict=True))
    ]


def _direction_planes(kind: Kind, where: _Noise, tiles: int) -> _Planes:
    if kind == "signs":
        return [signs(bits) for bits in _cut(where, kind, tiles)]
    assert isinstance(where, Counters)
    return gaussian_planes(where)


def _cut(where: _Noise, kind: Kind, tiles: int) -> _Planes:
    """Make words, of which each serves several tiles, and cut them into the tiles' fields, int32 [tiles, 16]."""
    assert isinstance(where, Counters)
    words = [signed(word) for word in word_planes(where)]
    # A view of its own whole: to a compiler a place in memory, without which it would make words anew for every field.
    kept = [word.as_strided(word.size(), word.stride()) for word in words]
    return [field_plane(word, BITS[kind], tiles) for word in kept]


def _mask_planes(mask: _Mask | None, weights: _Planes) -> Sequence[Tensor | None]:
    if mask is None:
        return (None,) * 4
    random: Sequence[Tensor | None] = (None,) * 4
    if mask.random is not None:
        assert isinstance(mask.random, Counters)
        random = word_planes(mask.random)
    index = mask.starts.unsqueeze(1) + torch.arange(weights[0].size(1), device=weights[0].device)
    return [
        selected(ranks(mask.score, weight, words), index + 16 * number, mask.level, mask.cut)
        for number, (weight, words) in enumerate(zip(weights, random, strict=True))
    ]


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
