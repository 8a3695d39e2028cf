"""Philox 4x32-10, a counter-based random number generator, in plain torch operations.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A call maps a counter of four 32-bit words and a
key of two to four random 32-bit words, with no state: the same integers on every device, in eager and compiled code.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF

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

    Words are kept in int64 tensors: a product of two of them wraps modulo 2^64, which leaves its 64 bits intact, so the
    high half is an arithmetic shift followed by a mask. Two of a round's four words are left unmasked until they are
    used, which spares a vector machine a fifth of its work.

    Args:
        counter: four int64 tensors of 32-bit words that broadcast against each other.
        low_keys: each round's low key word, int64 [], from `round_keys`.
        high_keys: each round's high key word, int64 [].

    Returns:
        Four int64 tensors of the broadcast shape, each word in [0, 2^32).

    Example:
        >>> import torch
        >>> zero = torch.tensor(0)
        >>> low, high = (torch.tensor(keys).unbind() for keys in round_keys(0))
        >>> [f"{int(word):08x}" for word in philox4x32((zero, zero, zero, zero), low, high)]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
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
