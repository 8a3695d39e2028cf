"""Philox 4x32-10, a counter-based random number generator, in plain torch operations.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A call maps a counter of four 32-bit words and a
key of two to four random 32-bit words, with no state: the same integers on every device, in eager and compiled code.

Words come in tensors of either of two dtypes. In int64 a word is its number in [0, 2^32), and a product of two is one
operation. In int32 it is the signed number of the same bits, and a product is made of halves, in ten times the
operations: those of vector machines whose widest product is of 32 bits, where they take half the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF
_HALF = 0xFFFF
_SIGN, _HALF_SIGN = 0x80000000, 0x8000

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def round_keys(key: int) -> tuple[list[int], list[int]]:
    """Return the low and the high key word of each round, from a 64-bit key."""
    low, high = key & LOW, (key >> 32) & LOW
    return (
        [(low + number * _WEYL_0) & LOW for number in range(ROUNDS)],
        [(high + number * _WEYL_1) & LOW for number in range(ROUNDS)],
    )


def philox4x32(counter: Words, low_keys: Sequence[Tensor], high_keys: Sequence[Tensor]) -> Words:
    """Return four random words for each counter.

    Args:
        counter: four tensors of words that broadcast against each other, all int64 or all int32.
        low_keys: each round's low key word, from `round_keys`, of the counter's dtype and broadcasting against it.
        high_keys: each round's high key word, likewise.

    Returns:
        Four tensors of words, of the counter's dtype and the broadcast shape.

    Example:
        >>> zero = torch.tensor(0)
        >>> low, high = (torch.tensor(keys).unbind() for keys in round_keys(0))
        >>> [f"{int(word):08x}" for word in philox4x32((zero, zero, zero, zero), low, high)]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    rounds = _by_halves if counter[0].dtype == torch.int32 else _by_whole_products
    return rounds(counter, low_keys, high_keys)


def _by_whole_products(counter: Words, low_keys: Sequence[Tensor], high_keys: Sequence[Tensor]) -> Words:
    """Work in int64.

    A product wraps modulo 2^64, which leaves its 64 bits intact, so the high half is an arithmetic shift followed by a
    mask. Two of a round's four words are left unmasked until they are used, which spares a fifth of the work.
    """
    c0, c1, c2, c3 = counter
    for low, high in zip(low_keys, high_keys, strict=True):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            ((product_1 >> 32) ^ c1 ^ low) & LOW,
            product_1,
            ((product_0 >> 32) ^ c3 ^ high) & LOW,
            product_0,
        )
    return c0, c1 & LOW, c2, c3 & LOW


def _by_halves(counter: Words, low_keys: Sequence[Tensor], high_keys: Sequence[Tensor]) -> Words:
    """Work in int32."""
    c0, c1, c2, c3 = counter
    for low, high in zip(low_keys, high_keys, strict=True):
        high_0, low_0 = _product(kept(c0), _MULTIPLIER_0)
        high_1, low_1 = _product(kept(c2), _MULTIPLIER_1)
        c0, c1, c2, c3 = high_1 ^ c1 ^ low, low_1, high_0 ^ c3 ^ high, low_0
    return c0, c1, c2, c3


def kept(word: Tensor) -> Tensor:
    """Return a word as a view of its own whole.

    To a compiler that is a place in memory, which it then finds no need for, and without which it would make the word
    anew wherever it is used.
    """
    return word.as_strided(word.size(), word.stride())


def _product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """Return the high and the low word of a product with a multiplier of 2^31 or more, int32.

    The multiplier less 2^32 is taken as high 2^16 + low with signed halves. No sum on the way is of more than 31 bits
    and a sign, so that shifts, which keep the sign, lose nothing.
    """
    low_factor = (multiplier & _HALF ^ _HALF_SIGN) - _HALF_SIGN
    high_factor = (_as_signed(multiplier) - low_factor) >> 16
    low, high = word & _HALF, _upper(word)
    middle = high * low_factor + (low * low_factor >> 16)
    other = low * high_factor + (middle & _HALF)
    upper = high * high_factor + (middle >> 16) + (other >> 16)
    # What the 2^32 left out would have added.
    return upper + word, word * _as_signed(multiplier)


def _upper(word: Tensor) -> Tensor:
    return (word >> 16) & _HALF


def _as_signed(word: int) -> int:
    return (word ^ _SIGN) - _SIGN


def signed(word: Tensor) -> Tensor:
    """Return the signed number of a word's bits, int32."""
    return word if word.dtype == torch.int32 else ((word ^ _SIGN) - _SIGN).to(torch.int32)


def unsigned(word: Tensor) -> Tensor:
    """Return a word's number in [0, 2^32), int64."""
    return word.to(torch.int64) & LOW if word.dtype == torch.int32 else word


def as_float(word: Tensor) -> Tensor:
    """Return a word's number rounded to float32."""
    if word.dtype == torch.int32:
        # Either half is exact, so that their sum is rounded once.
        return _upper(word).to(torch.float32) * 65536.0 + (word & _HALF).to(torch.float32)
    return word.to(torch.float32)
