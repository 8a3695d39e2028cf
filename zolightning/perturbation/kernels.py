"""The two things that are done to a weight: move it into another place, and move it in its own.

Each reads and writes a weight once. Noise and mask are made as it goes, and there is no temporary of the weight's size.
One source of plain torch operations serves every device; torch.compile fuses it into one loop where that pays (see
`zolightning.perturbation.compiler`). A weight is taken as four planes, element 16 j + k of each tile of 64 in plane j,
since that is how its noise comes (see `zolightning.perturbation.noise`): a loop over the planes makes the four words of
a counter once and needs no place to keep them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
# The most tiles that a unit of counters serves.
_TILES_A_UNIT = unit(1) // TILE


class _Mask(NamedTuple):
    """A selection as a kernel takes it."""

    score: Score
    level: Tensor
    cut: Tensor
    where: Counters


# Normal numbers are made from counters inside the kernel; signs are cut from words made just before, 128 a counter.
_Noise = Counters | Tensor


def perturb_into(
    out: Tensor,
    weight: Tensor,
    scale: Tensor,
    kind: Kind,
    stream: Stream,
    selection: Selection | None,
    compiler: Compiler,
    first: int = 0,
) -> None:
    """Write weight + scale z into `out`, where selected, and the weight elsewhere; `out` may be the weight itself.

    The sum is made in float32 (float64 for float64 weights) and rounded once, to nearest.

    Args:
        out: flat, contiguous, of the weight's dtype [n].
        weight: flat, contiguous [n].
        scale: plus or minus the smoothing parameter, float32 or float64 [].
        kind: what the direction is made of.
        stream: the direction's stream.
        selection: the mask, or None for a dense direction.
        compiler: runs the kernel compiled or eager.
        first: the index in the parameter of the weight's first element, a multiple of `unit(1)`.
    """
    for start, stop in _chunks(weight):
        tiles = (stop - start) // TILE
        noise = _noise(kind, stream, weight.device, first + start, tiles, compiler)
        mask = _mask_for(selection, weight, first + start, tiles)
        planes = _planes(out[start:stop]), _planes(weight[start:stop])
        compiler.run(_perturb, tiles // _TILES_A_UNIT, *planes, scale, noise, mask)
    if tail := weight.numel() % TILE:
        starts = _start(first + weight.numel() - tail, weight.device)
        moved = perturbed_rows(weight[-tail:].unsqueeze(0), starts, scale, kind, stream, selection, compiler)
        out[-tail:] = moved[0]


def perturbed_rows(
    weight: Tensor,
    starts: Tensor,
    scale: Tensor,
    kind: Kind,
    stream: Stream,
    selection: Selection | None,
    compiler: Compiler,
) -> Tensor:
    """Return weight + scale z for some rows of a weight [rows, width], whose first elements are at `starts` [rows]."""
    z = noise_at(kind, stream, starts, weight.size(1), compiler)
    mask = None if selection is None else mask_at(selection, weight, starts, compiler)
    return _moved(weight, scale, z, mask).to(weight.dtype)


def update_(
    weight: Tensor,
    coefficients: Tensor,
    decay: Tensor | None,
    kind: Kind,
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
        decay: learning rate times weight decay, of the coefficients' dtype [], or None for no decay.
        kind: what the directions are made of.
        streams: the directions' streams, one a query (or a step of a journal).
        selection: the mask, or None for a dense update.
        rounding: the stream of the rounding lane for stochastic rounding, or None to round to nearest.
        compiler: runs the kernel compiled or eager.
    """
    device = weight.device
    for start, stop in _chunks(weight):
        tiles = (stop - start) // TILE
        noises = [_noise(kind, stream, device, start, tiles, compiler) for stream in streams]
        mask = _mask_for(selection, weight, start, tiles)
        words = None if rounding is None else _drawn("halves", rounding, device, start, tiles, compiler)
        compiler.run(
            _update, tiles // _TILES_A_UNIT, _planes(weight[start:stop]), coefficients, noises, decay, mask, words
        )
    if tail := weight.numel() % TILE:
        starts, end = _start(weight.numel() - tail, device), weight[-tail:].unsqueeze(0)
        end.copy_(updated_rows(end, starts, coefficients, decay, kind, streams, selection, rounding, compiler))


def updated_rows(
    weight: Tensor,
    starts: Tensor,
    coefficients: Tensor,
    decay: Tensor | None,
    kind: Kind,
    streams: Sequence[Stream],
    selection: Selection | None,
    rounding: Stream | None,
    compiler: Compiler,
) -> Tensor:
    """Return rows of a weight [rows, width] as `update_` would leave them; their first elements are at `starts`."""
    width = weight.size(1)
    zs = [noise_at(kind, stream, starts, width, compiler) for stream in streams]
    mask = None if selection is None else mask_at(selection, weight, starts, compiler)
    words = None if rounding is None else noise_at("halves", rounding, starts, width, compiler)
    return stepped(weight, _change(weight, coefficients, zs, decay, mask), words)


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


def _moved(weight: Tensor, scale: Tensor, z: Tensor, mask: Tensor | None) -> Tensor:
    start = wide(weight)
    # In the dtype of the arithmetic, because a 0-dimensional factor would not widen it.
    moved = start + scale * z.to(start.dtype)
    return moved if mask is None else torch.where(mask, moved, start)


def _change(
    weight: Tensor, coefficients: Tensor, zs: Sequence[Tensor], decay: Tensor | None, mask: Tensor | None
) -> Tensor:
    start = wide(weight)
    change = coefficients[0] * zs[0].to(start.dtype)
    for query, z in enumerate(zs[1:], 1):
        change = change + coefficients[query] * z.to(start.dtype)
    if decay is not None:
        change = change + decay * start
    return change if mask is None else torch.where(mask, change, 0.0)


_Planes = Sequence[Tensor]


def _perturb(outs: _Planes, weights: _Planes, scale: Tensor, noise: _Noise, mask: _Mask | None) -> None:
    masks = _mask_planes(mask, weights)
    for out, weight, z, chosen in zip(outs, weights, _noise_planes(noise, weights), masks, strict=True):
        out.copy_(_moved(weight, scale, z, chosen))


def _update(
    weights: _Planes,
    coefficients: Tensor,
    noises: Sequence[_Noise],
    decay: Tensor | None,
    mask: _Mask | None,
    words: Tensor | None,
) -> None:
    masks = _mask_planes(mask, weights)
    directions = [_noise_planes(noise, weights) for noise in noises]
    for number, (weight, chosen) in enumerate(zip(weights, masks, strict=True)):
        change = _change(weight, coefficients, [planes[number] for planes in directions], decay, chosen)
        halves = None if words is None else field_plane(words, number, BITS["halves"], weight.size(0))
        weight.copy_(stepped(weight, change, halves))


def _noise_planes(noise: _Noise, weights: _Planes) -> _Planes:
    if isinstance(noise, Tensor):
        return [signs(field_plane(noise, number, BITS["signs"], weights[0].size(0))) for number in range(4)]
    return gaussian_planes(noise)


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


def _start(element: int, device: torch.device) -> Tensor:
    return torch.full((1,), element, dtype=torch.int64, device=device)


def _noise(kind: Kind, stream: Stream, device: torch.device, first: int, tiles: int, compiler: Compiler) -> _Noise:
    if kind == "signs":
        return _drawn(kind, stream, device, first, tiles, compiler)
    return counters(stream, device, tiles, first // TILE)


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
