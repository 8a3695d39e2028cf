"""The dtype that arithmetic is done in, and stochastic rounding back from it.

Stochastic rounding keeps the mean of the rounded number at the number, so that small updates are not lost.
Rounding to nearest loses an update below half the spacing of the weights' dtype: at |lr g| = 1e-6 it moves 1.2 % of
bfloat16 and 9 % of float16 weights that are N(0, 0.02^2), and the rest of the update is gone.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["stochastic", "nearest"]

_FLOAT32_FRACTION = 23
_WORD_BITS = 16
_LARGE = 2.0**100


def wide(values: Tensor) -> Tensor:
    """Return a tensor in the dtype of its arithmetic."""
    return values.to(wide_dtype(values.dtype))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32, or float64 for float64: what sums are made in, and losses compared in."""
    return torch.promote_types(dtype, torch.float32)


def stochastic_round(values: Tensor, words: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 values up or down to a neighbour in `dtype`, each with the probability that keeps the mean.

    A number that `dtype` can hold stays as it is, bit for bit. Uniform noise of one spacing of the grid is added, and
    the sum rounded to nearest. Numbers of bfloat16 beyond 2^100 are rounded to nearest without noise; where float32
    itself is subnormal the mean is not kept; of float16 the noise has thirteen bits, the fraction of a spacing that is
    kept of a float32 number there.

    Args:
        values: float32, of any shape.
        words: random 16-bit numbers, int32, of the values' shape.
        dtype: torch.bfloat16 or torch.float16.

    Returns:
        The rounded values in `dtype`.

    Raises:
        ValueError: if `dtype` is not a half-precision type.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"stochastic rounding is for torch.bfloat16 and torch.float16, got {dtype}")
    grid = torch.finfo(dtype)
    # Bits of a float32 number below the last one that is kept; noise with no more of them is added without an error.
    below = _FLOAT32_FRACTION + int(math.log2(grid.eps))
    first = _first_place(values)
    spacing = first.clamp(min=grid.smallest_normal) * grid.eps
    # Odd, so that a number on the grid is never half-way to the next.
    share = ((words >> (_WORD_BITS - below)) | 1).to(torch.float32) * 2.0**-below - 0.5
    # A sum with a number whose last bit is worth the spacing is rounded to the grid.
    shift = spacing * (1.5 * 2.0**_FLOAT32_FRACTION)
    rounded = ((values + share * spacing) + shift) - shift
    # What lies between the largest number and infinity is rounded to nearest, as is what is too large to be shifted.
    inside = values.abs() <= min(grid.max, _LARGE)
    return torch.where((first > 0) & inside, rounded, values).to(dtype)


def _first_place(values: Tensor) -> Tensor:
    """Return the power of two that is a float32 number's first bit; 0 for zero, and NaN where nothing is finite.

    Rump, "Error estimation of floating-point summation and dot product", BIT 2012, with sums whose products are
    exact: a device that fuses the two gives the same. A compiled loop would leave its vectors to read bits.
    """
    scaled = values * 2.0**_FLOAT32_FRACTION + values
    return (scaled - (scaled - scaled * 2.0 ** -(_FLOAT32_FRACTION + 1))).abs()
