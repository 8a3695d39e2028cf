"""Masks that are kept, one bit a weight, laid out as the words that signs are made from."""

from __future__ import annotations

import torch
from torch import Tensor

from zolightning.perturbation.noise import TILE, unit, units
from zolightning.perturbation.ranges import unit_numbers

_UNIT = unit(1)
_FIELDS = _UNIT // TILE
# Units packed at once: a bit takes twelve bytes for a while.
_AT_ONCE = 1 << 10


def empty_bits(size: int, device: torch.device) -> Tensor:
    """Return the bits of a mask of so many elements that selects none, int32 [units + 1, 4, 16].

    The last unit is there so that code which reads one more than a whole number of them need not know where they end.
    """
    return torch.zeros(units(size, 1) + 1, 4, TILE // 4, dtype=torch.int32, device=device)


def packed(mask: Tensor) -> Tensor:
    """Return the bits of a mask, bool [n], as `empty_bits` has them.

    Example:
        >>> packed(torch.ones(65, dtype=torch.bool))[0, :, :3]
        tensor([[3, 1, 1],
                [1, 1, 1],
                [1, 1, 1],
                [1, 1, 1]], dtype=torch.int32)
    """
    bits = empty_bits(mask.numel(), mask.device)
    shifts = torch.arange(_FIELDS, device=mask.device).view(1, -1, 1, 1)
    for first in range(0, bits.size(0) - 1, _AT_ONCE):
        part = mask[first * _UNIT : (first + _AT_ONCE) * _UNIT]
        whole = torch.nn.functional.pad(part, (0, -part.numel() % _UNIT)).view(-1, _FIELDS, 4, TILE // 4)
        words = (whole.to(torch.int64) << shifts).sum(1)
        bits[first : first + words.size(0)] = (words - ((words >> 31) << 32)).to(torch.int32)
    return bits


def bits_of_tiles(bits: Tensor, first: int, tiles: int) -> Tensor:
    """Return the words of some tiles, from a tile on with which a unit begins, and of one unit more [units, 4, 16]."""
    start = first // _FIELDS
    return bits[start : start + tiles // _FIELDS + 1]


def bits_of_rows(bits: Tensor, starts: Tensor, width: int) -> Tensor:
    """Return the words of rows that begin at given elements [rows * units a row, 4, 16]; see `words_for`."""
    return bits[unit_numbers("signs", starts, width)]
