"""The noise's layout in Python's own integers, written from the words of `zolightning.perturbation.noise`."""

from __future__ import annotations

from zolightning.perturbation.noise import Stream

Words = tuple[int, int, int, int]


def philox(counter: Words, key: int) -> Words:
    """Philox 4x32-10 of Salmon et al. (SC 2011): four random words from a counter of four and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    for _ in range(10):
        high_0, low_0 = divmod(0xD2511F53 * c0, 1 << 32)
        high_1, low_1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    return c0, c1, c2, c3


def words_of(stream: Stream, block: int) -> Words:
    """Return the four words of one counter of a stream."""
    return philox((block, stream.parameter, stream.step, stream.query << 8 | stream.lane), stream.seed)


def place_of(element: int, bits: int) -> tuple[int, int, int]:
    """Return an element's counter, which of its words, and which field of that, for fields of so many bits."""
    size = 64 * (32 // bits)
    place = element % size
    return element // size * 16 + place % 16, place % 64 // 16, place // 64


def field_of(stream: Stream, element: int, bits: int) -> int:
    """Return an element's field of so many bits."""
    counter, word, field = place_of(element, bits)
    return words_of(stream, counter)[word] >> (field * bits) & ((1 << bits) - 1)
