"""Philox against the known answers of Random123 (kat_vectors, philox4x32 10)."""

from __future__ import annotations

import pytest
import torch

from zolightning.perturbation.philox import philox4x32, round_keys

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    a, b, c, d = (torch.tensor(word) for word in counter)
    low, high = (torch.tensor(keys).unbind() for keys in round_keys(key[0] | key[1] << 32))
    words = philox4x32((a, b, c, d), low, high)
    assert tuple(int(word) for word in words) == expected
