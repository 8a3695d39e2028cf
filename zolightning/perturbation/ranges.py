"""Noise at any elements: rows that an embedding looks up, the odd end of a weight, or a range asked for by itself."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.noise import TILE, Stream, counters_at, draw, draw_gaussian, fields, signs, unit

# What is made of the words: normal numbers, signs, 16-bit numbers for rounding, 32-bit keys of a random mask.
Kind = Literal["gaussian", "signs", "halves", "keys"]

BITS: dict[Kind, int] = {"gaussian": 32, "signs": 1, "halves": 16, "keys": 32}
_LOW = 0xFFFFFFFF
_EAGER = Compiler(False, 0)


def noise_at(kind: Kind, stream: Stream, starts: Tensor, width: int, compiler: Compiler = _EAGER) -> Tensor:
    """Return noise of `width` elements from each of several starting elements on.

    Args:
        kind: what to make.
        stream: the parameter's stream.
        starts: int64 [rows]; on its device the noise is made.
        width: elements in a row.
        compiler: runs the generator compiled or eager.

    Returns:
        [rows, width]: float32 for normal numbers and signs, int32 for halves, int64 for keys.
    """
    return placed(kind, words_for(kind, stream, starts, width, compiler), starts, width)


def words_for(kind: Kind, stream: Stream, starts: Tensor, width: int, compiler: Compiler) -> Tensor:
    """Return what the generator makes for all units that hold elements wanted, [rows * units a row, 4, 16]."""
    return made(kind, stream, unit_numbers(kind, starts, width), None, compiler)


def unit_numbers(kind: Kind, starts: Tensor, width: int) -> Tensor:
    """Return the numbers of all units that hold elements wanted, int64 [rows * units a row]."""
    size = unit(BITS[kind])
    numbers = (starts >> _shift(size)).unsqueeze(1) + torch.arange(_span(width, size), device=starts.device)
    return numbers.reshape(-1)


def placed(kind: Kind, words: Tensor, starts: Tensor, width: int) -> Tensor:
    """Return the elements wanted [rows, width] from what `words_for` gave; dtypes as `noise_at` has them."""
    bits = BITS[kind]
    size = unit(bits)
    element = (starts & (size - 1)).unsqueeze(1) + torch.arange(width, device=starts.device)
    row = torch.arange(starts.numel(), device=starts.device).unsqueeze(1) * _span(width, size)
    where = (row + (element >> _shift(size))) * TILE + (element & (TILE - 1))
    # No index is outside, so none need be looked at.
    chosen: Tensor = torch.ops.aten._unsafe_index(words.view(-1), [where])
    if kind == "gaussian":
        return chosen
    if kind == "keys":
        return chosen.to(torch.int64) & _LOW
    field: Tensor = (chosen >> ((element & (size - 1)) // TILE * bits).to(torch.int32)) & (2**bits - 1)
    return signs(field) if kind == "signs" else field


def _span(width: int, size: int) -> int:
    """Return how many units a row may touch."""
    return (width + size - 2) // size + 1


def _shift(size: int) -> int:
    """Return the shift that divides by a power of two: a device divides by those as slowly as by any other number."""
    return size.bit_length() - 1


def made(kind: Kind, stream: Stream, numbers: Tensor, parameters: Tensor | None, compiler: Compiler) -> Tensor:
    """Return what the generator makes for given units [units, 4, 16]: float32 normal numbers, or int32 words.

    Args:
        kind: what is wanted.
        stream: the stream.
        numbers: the units, int64 [units].
        parameters: each unit's parameter word, int64 [units, 1], or None for the stream's.
        compiler: runs the generator compiled or eager.
    """
    dtype = torch.float32 if kind == "gaussian" else torch.int32
    out = torch.empty(numbers.numel(), 4, TILE // 4, dtype=dtype, device=numbers.device)
    where = counters_at(stream, numbers, parameters, compiler.word_dtype(numbers.device))
    compiler.run(draw_gaussian if kind == "gaussian" else draw, numbers.numel(), out.unbind(1), where)
    return out


def range_of(kind: Kind, stream: Stream, start: int, stop: int, device: torch.device | None = None) -> Tensor:
    """Return elements `start` to `stop` of a stream's noise [stop - start]; see `noise_at` for dtypes.

    Example:
        >>> stream = Stream(seed=0, parameter=7, step=3)
        >>> whole = range_of("gaussian", stream, 0, 200)
        >>> torch.equal(whole[70:130], range_of("gaussian", stream, 70, 130))
        True
    """
    starts = torch.full((1,), start, dtype=torch.int64, device=device or torch.device("cpu"))
    return noise_at(kind, stream, starts, stop - start)[0]


def in_order(kind: Kind, words: Tensor) -> Tensor:
    """Return what `made` gave, in the order of elements [units * unit]: normal numbers, signs or halves."""
    if kind == "gaussian":
        return words.view(-1)
    values = fields(words, BITS[kind])
    return signs(values) if kind == "signs" else values
