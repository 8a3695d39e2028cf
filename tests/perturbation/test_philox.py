"""Philox against the known answers of Random123 (kat_vectors, philox4x32 10), in words of either dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zolightning.perturbation.philox import as_float, philox4x32, round_keys, signed, unsigned

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


DTYPES = [torch.int64, torch.int32]
WORD = st.integers(0, 2**32 - 1)


def words_of(counter: tuple[int, ...], key: tuple[int, int], dtype: torch.dtype) -> tuple[int, ...]:
    """Return the four random words of a counter, as numbers, made in a dtype."""
    a, b, c, d = (in_dtype(torch.tensor([word]), dtype) for word in counter)
    low, high = (in_dtype(torch.tensor(keys), dtype).unbind() for keys in round_keys(key[0] | key[1] << 32))
    words = philox4x32((a, b, c, d), low, high)
    assert all(word.dtype == dtype for word in words)
    return tuple(int(unsigned(word)) for word in words)


def in_dtype(word: Tensor, dtype: torch.dtype) -> Tensor:
    return signed(word) if dtype == torch.int32 else word


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...], dtype: torch.dtype
) -> None:
    assert words_of(counter, key, dtype) == expected


@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
def test_words_do_not_depend_on_their_dtype(counter: tuple[int, ...], key: tuple[int, int]) -> None:
    assert words_of(counter, key, torch.int32) == words_of(counter, key, torch.int64)


@given(WORD)
def test_a_word_is_rounded_to_float32_once(word: int) -> None:
    wide = torch.tensor([word])
    assert torch.equal(as_float(signed(wide)), as_float(wide))
    assert torch.equal(as_float(wide), torch.tensor([word], dtype=torch.float64).float())
