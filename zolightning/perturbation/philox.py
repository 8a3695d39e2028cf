"""Philox 4x32-10, a counter-based random number generator, in plain torch operations.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A call maps a counter of four 32-bit words and a
key of two to four random 32-bit words, with no state: the same integers on every device, in eager and compiled code.
"""

from __future__ import annotations

from torch import Tensor

_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox4x32(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Return four random words for each counter.

    Words are kept in int64 tensors: a product of two of them wraps modulo 2^64, which leaves its 64 bits intact, so the
    high half is an arithmetic shift followed by a mask.

    Args:
        counter: four int64 tensors of 32-bit words that broadcast against each other.
        key: two int64 tensors of 32-bit words.

    Returns:
        Four int64 tensors of the broadcast shape, each word in [0, 2^32).

    Example:
        >>> import torch
        >>> zero = torch.tensor(0)
        >>> [f"{int(word):08x}" for word in philox4x32((zero, zero, zero, zero), (zero, zero))]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            ((product_1 >> 32) & _LOW) ^ (c1 ^ k0),
            product_1 & _LOW,
            ((product_0 >> 32) & _LOW) ^ (c3 ^ k1),
            product_0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    return c0, c1, c2, c3
