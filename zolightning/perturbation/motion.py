"""The one thing that is done to a weight: a motion is subtracted from it, in its own place or into another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from zolightning.perturbation.bits import bits_of_rows, bits_of_tiles
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.kernels import (
    Mask,
    Moving,
    Noise,
    RowKernel,
    TileKernel,
    subtract_rows,
    subtract_tiles,
    subtract_turns,
    sum_rows,
    sum_tiles,
)
from zolightning.perturbation.masks import NUMBERS, Selection, level
from zolightning.perturbation.noise import TILE, Counters, Stream, counters, firsts, place_on, unit
from zolightning.perturbation.ranges import BITS, Kind, words_for
from zolightning.perturbation.rounding import wide_dtype
from zolightning.perturbation.windows import chunks_of, framed, overlap, windows

# Elements a kernel works on at once. On a CPU the words of rounding and signs stay in cache; elsewhere launches count.
_CHUNK = {"cpu": 1 << 20}
_LARGE_CHUNK = 1 << 24
# The same for several motions at once, which take less memory traffic than calls.
_TURNS_CHUNK = {"cpu": 1 << 22}
# As many: with eight, the processor this was tried on took longer for each, and the compiler 1.5 times as long.
TOGETHER = 4


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


def subtract(
    weight: Tensor,
    motion: Motion,
    compiler: Compiler,
    out: Tensor | None = None,
    first: int = 0,
    within: range | None = None,
) -> None:
    """Subtract a motion from a weight, in place or into `out`; an element whose change is zero keeps its bits.

    Sums are made in float32 (float64 for float64 weights) and rounded once.

    Args:
        weight: flat, contiguous [n].
        motion: what to subtract.
        compiler: runs the kernel compiled or eager.
        out: flat, contiguous, of the weight's dtype [n], or None for the weight's own place.
        first: the index in the parameter of the weight's first element.
        within: the elements of the parameter that this is a part of, from a multiple of `unit(1)` on: the result has
            the bits that it has if all of them are worked on at once, in compiled code too. None for the weight's own.
    """
    _run((subtract_tiles, subtract_rows), weight, motion, compiler, out, first, within)


def subtract_in_turn(
    weight: Tensor, motions: Sequence[Motion], compiler: Compiler, first: int = 0, within: range | None = None
) -> None:
    """Subtract motions from a weight one after the other, with the bits that as many calls of `subtract` give it.

    Four at a time go through the elements at once where that pays and is sure to give the same bits: one direction of
    signs each, which are less work than reading and writing the weight; no decay, whose products a compiler may round
    otherwise; and nothing that is rounded to half precision in between.

    Args:
        weight: as `subtract` has it.
        motions: what to subtract, of one parameter, in their order.
        compiler: as `subtract` has it.
        first: as `subtract` has it.
        within: as `subtract` has it.
    """
    whole = range(first, first + weight.numel()) if within is None else within
    light = weight.dtype == wide_dtype(weight.dtype) and all(map(_is_light, motions))
    together = len(motions) // TOGETHER * TOGETHER if light else 0
    if together:
        _run_turns(weight, motions[:together], compiler, first, whole)
    for motion in motions[together:]:
        subtract(weight, motion, compiler, first=first, within=whole)


def _is_light(motion: Motion) -> bool:
    return motion.kind == "signs" and len(motion.streams) == 1 and motion.decay is None and motion.selection is None


def _run_turns(weight: Tensor, motions: Sequence[Motion], compiler: Compiler, first: int, whole: range) -> None:
    """Subtract light motions, chunk by chunk; what is not wholly here, or no whole tile, one motion a pass."""
    here, device = range(first, first + weight.numel()), weight.device
    # What one pass after the other takes: of all motions but for their places, counters are the same.
    turns, tiled = _turns(motions, device, compiler), whole[: len(whole) // TILE * TILE]
    for chunk in chunks_of(tiled, _TURNS_CHUNK.get(device.type, _LARGE_CHUNK)):
        if overlap(chunk, here) == chunk:
            tiles = _Tiles(device, chunk.start // TILE, len(chunk) // TILE, compiler)
            where = tiles.noise("signs", motions[0].streams[0])
            planes = _planes(weight[chunk.start - first : chunk.stop - first])
            compiler.run_each(subtract_turns, len(chunk) // unit(1), (planes, where), turns)
        else:
            _run_singly(weight, motions, compiler, first, chunk)
    _run_singly(weight, motions, compiler, first, whole[len(tiled) :])


def _run_singly(weight: Tensor, motions: Sequence[Motion], compiler: Compiler, first: int, part: range) -> None:
    """Subtract motions from what is here of a part of the parameter, a pass for each."""
    if held := overlap(part, range(first, first + weight.numel())):
        for motion in motions:
            subtract(weight[held.start - first : held.stop - first], motion, compiler, first=held.start, within=part)


def _turns(motions: Sequence[Motion], device: torch.device, compiler: Compiler) -> list[list[Tensor]]:
    """Return the places and the coefficients of light motions, of as many as go together."""
    dtype = compiler.word_dtype(device)
    places = torch.cat([place_on(motion.streams[0], device, dtype) for motion in motions])
    coefficients = torch.cat([motion.coefficients for motion in motions]).view(-1, 1, TOGETHER)
    together = places.view(coefficients.size(0), 1, -1, places.size(2))
    return [list(turn) for turn in zip(together.unbind(), coefficients.unbind(), strict=True)]


def sum_into(
    out: Tensor, weight: Tensor, motion: Motion, compiler: Compiler, first: int = 0, within: range | None = None
) -> None:
    """Write sum_i coefficients[i] z_i on the selected elements, and 0 on the others, into `out`.

    Args:
        out: flat, contiguous; in the dtype of the weight's arithmetic, if nothing is to be rounded [n].
        weight: flat, contiguous; the mask goes by it [n].
        motion: what to sum; it has no decay and no rounding.
        compiler: runs the kernel compiled or eager.
        first: the index in the parameter of the weight's first element.
        within: as `subtract` has it.
    """
    _run((sum_tiles, sum_rows), weight, motion, compiler, out, first, within)


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


def summed_rows(rows: Tensor, starts: Tensor, motion: Motion, compiler: Compiler) -> Tensor:
    """Return what `sum_into` would write for rows of a weight [rows, width], in the weight's dtype.

    Args:
        rows: of the weight, which the mask goes by [rows, width].
        starts: the index in the parameter of each row's first element, int64 [rows].
        motion: what to sum; it has no decay and no rounding.
        compiler: runs the kernels compiled or eager.
    """
    out = torch.empty_like(rows)
    _run_rows(sum_rows, out, rows, starts, motion, compiler)
    return out


def _run(
    kernels: tuple[TileKernel, RowKernel],
    weight: Tensor,
    motion: Motion,
    compiler: Compiler,
    out: Tensor | None,
    first: int,
    within: range | None,
) -> None:
    """Run a kernel on whole tiles, chunk by chunk, and its like for rows on the rest."""
    here = range(first, first + weight.numel())
    whole = here if within is None else within
    tiled = whole[: len(whole) // TILE * TILE]
    for chunk in chunks_of(tiled, chunk_size(weight.device)):
        part = overlap(chunk, here)
        for window in windows(part, chunk):
            tiles = _Tiles(weight.device, window.start // TILE, len(window) // TILE, compiler)
            with framed(weight, out, first, overlap(window, part), window) as (source, target):
                planes = None if target is None else _planes(target)
                moving = _moving(motion, weight.dtype, tiles)
                compiler.run(kernels[0], len(chunk) // unit(1), planes, _planes(source), moving)
    tail = whole[len(tiled) :]
    if held := overlap(tail, here):
        starts = torch.full((1,), tail.start, dtype=torch.int64, device=weight.device)
        with framed(weight, out, first, held, tail) as (source, target):
            end = source if target is None else target
            _run_rows(kernels[1], end.unsqueeze(0), source.unsqueeze(0), starts, motion, compiler)


def _run_rows(kernel: RowKernel, out: Tensor, rows: Tensor, starts: Tensor, motion: Motion, compiler: Compiler) -> None:
    elements = _Rows(starts, rows.size(1), compiler)
    compiler.run(kernel, rows.size(0), out, rows, starts, _moving(motion, rows.dtype, elements))


class _Elements(Protocol):
    """Where in a parameter a kernel works, as what makes the numbers of its elements."""

    @property
    def starts(self) -> Tensor:
        """The index of the first element of each tile or row, int64 [n]."""

    def noise(self, kind: Kind, stream: Stream) -> Noise:
        """Return what noise is made from."""

    def kept(self, bits: Tensor) -> Tensor:
        """Return the bits of a mask that is kept."""


@dataclass(frozen=True)
class _Tiles:
    """Whole tiles, from one on with which a unit of every kind begins."""

    device: torch.device
    first: int
    count: int
    compiler: Compiler

    @property
    def starts(self) -> Tensor:
        return firsts(self.device, self.count, self.first)

    def noise(self, kind: Kind, stream: Stream) -> Counters:
        share = unit(BITS[kind]) // TILE
        # One more than there are whole units of tiles, so that compiled code need not know whether the last is whole.
        count = self.count if share == 1 else self.count // share + 1
        return counters(stream, self.device, count, self.first // share, self.compiler.word_dtype(self.device))

    def kept(self, bits: Tensor) -> Tensor:
        # As floats, which code for a CPU reads as it computes: see `Counters`.
        return bits_of_tiles(bits, self.first, self.count).view(torch.float32)


class _Rows(NamedTuple):
    """Rows that begin anywhere."""

    starts: Tensor
    width: int
    compiler: Compiler

    def noise(self, kind: Kind, stream: Stream) -> Tensor:
        return words_for(kind, stream, self.starts, self.width, self.compiler)

    def kept(self, bits: Tensor) -> Tensor:
        return bits_of_rows(bits, self.starts, self.width)


def _moving(motion: Motion, dtype: torch.dtype, elements: _Elements) -> Moving:
    chosen, mask = motion.selection, None
    if chosen is not None:
        numbers: Noise | None = None
        if chosen.bits is not None:
            numbers = elements.kept(chosen.bits)
        elif chosen.score in NUMBERS:
            numbers = elements.noise(NUMBERS[chosen.score], chosen.stream)
        mask = Mask(chosen.score, level(chosen, dtype), chosen.cut, elements.starts, numbers)
    directions = [elements.noise(motion.kind, stream) for stream in motion.streams]
    rounding = None if motion.rounding is None else elements.noise("halves", motion.rounding)
    return Moving(motion.kind, directions, motion.coefficients.unsqueeze(0), motion.decay, mask, rounding)


def chunk_size(device: torch.device) -> int:
    """Return how many elements a kernel works on at once, a multiple of `unit(1)`."""
    return _CHUNK.get(device.type, _LARGE_CHUNK)


def _planes(flat: Tensor) -> tuple[Tensor, ...]:
    return flat.view(-1, 4, TILE // 4).unbind(1)
