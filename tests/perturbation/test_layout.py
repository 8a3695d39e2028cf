"""The layout of the noise, element by element, against Python's own integers: journals and resumed runs rest on it."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers.counters import field_of, philox, place_of, words_of
from tests.perturbation.test_philox import KNOWN_ANSWERS
from zolightning.perturbation import ranges
from zolightning.perturbation.noise import (
    LAYOUT_VERSION,
    Lane,
    Stream,
    counters,
    counters_at,
    draw,
    gaussian_planes,
    parameter_words,
    unit,
    word_planes,
)
from zolightning.perturbation.philox import unsigned
from zolightning.perturbation.ranges import BITS, Kind, made, range_of

STREAM = Stream(seed=2**63 + 2**40 + 3, parameter=0xFEDCBA98, step=5, query=2)
# Whole units of 32- and 16-bit fields, and the beginning and end of one of single bits.
ELEMENTS = (*range(0, 200, 3), *range(960, 1100, 7), 2047, 2048, 2049, 4095, 123_456)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_the_reference_gives_the_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert philox(counter, key[0] | key[1] << 32) == expected


def test_the_layout_is_version_two() -> None:
    assert LAYOUT_VERSION == 2


@pytest.mark.parametrize("bits", [32, 16, 1])
def test_no_two_elements_share_a_field_and_all_fields_are_used(bits: int) -> None:
    size = unit(bits)
    assert size == {32: 64, 16: 128, 1: 2048}[bits]
    places = {place_of(element, bits) for element in range(2 * size)}
    assert len(places) == 2 * size
    assert {counter for counter, _, _ in places} == set(range(32))


@pytest.mark.parametrize(("kind", "lane"), [("keys", Lane.MASK), ("halves", Lane.ROUNDING)])
def test_integers_are_those_of_the_layout(kind: Kind, lane: Lane) -> None:
    stream = Stream(STREAM.seed, STREAM.parameter, STREAM.step, STREAM.query, lane)
    for element in ELEMENTS:
        assert int(range_of(kind, stream, element, element + 1)) == field_of(stream, element, BITS[kind]), element


def test_a_sign_is_minus_where_its_bit_is_one() -> None:
    whole = range_of("signs", STREAM, 0, 4096)
    for element in ELEMENTS:
        expected = 1 - 2 * field_of(STREAM, element, 1)
        assert int(range_of("signs", STREAM, element, element + 1)) == expected, element
        if element < 4096:
            assert int(whole[element]) == expected


def test_normal_numbers_are_box_and_mullers_of_the_words() -> None:
    for element in ELEMENTS:
        counter, word, _ = place_of(element, 32)
        pair = [(value + 0.5) / 2**32 for value in words_of(STREAM, counter)][word // 2 * 2 :][:2]
        turn = (math.cos, math.sin)[word % 2](2 * math.pi * pair[1])
        expected = math.sqrt(-2 * math.log(pair[0])) * turn
        # Words are rounded to float32's 24 bits: an angle is off by 2e-7 of a turn's 2 pi, a radius by less.
        assert abs(float(range_of("gaussian", STREAM, element, element + 1)) - expected) < 3e-6, element


@pytest.mark.parametrize(("kind", "served"), [("gaussian", 4), ("keys", 4), ("halves", 8), ("signs", 128)])
def test_a_call_of_the_generator_serves_so_many_elements(
    kind: Kind, served: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def counting(*arguments: object) -> None:
        nonlocal calls
        out = arguments[0]
        assert isinstance(out, tuple)
        calls += out[0].numel()
        original(*arguments)

    name = "draw_gaussian" if kind == "gaussian" else "draw"
    original = getattr(ranges, name)
    monkeypatch.setattr(ranges, name, counting)
    size = 1 << 14
    numbers = torch.arange(size // unit(BITS[kind]))
    words = made(kind, STREAM, numbers, None, ranges._EAGER)
    assert calls * served == size
    assert words.numel() == 4 * calls


def test_words_are_signed_numbers_of_the_same_bits() -> None:
    out = torch.empty(2, 4, 16, dtype=torch.int32)
    draw(out.unbind(1), counters_at(STREAM, torch.tensor([0, 7])))
    for row, first in enumerate((0, 112)):
        for counter in range(16):
            expected = words_of(STREAM, first + counter)
            assert [int(out[row, word, counter]) % 2**32 for word in range(4)] == list(expected)


def test_words_and_normal_numbers_have_the_same_bits_in_either_dtype() -> None:
    cpu, far = torch.device("cpu"), (1 << 26) + 5
    wide, narrow = (counters(STREAM, cpu, 40, far, dtype) for dtype in (torch.int64, torch.int32))
    for one, other in zip(word_planes(wide), word_planes(narrow), strict=True):
        assert (one.dtype, other.dtype) == (torch.int64, torch.int32)
        assert torch.equal(one, unsigned(other))
    for one, other in zip(gaussian_planes(wide), gaussian_planes(narrow), strict=True):
        assert torch.equal(one, other)


def test_a_seed_uses_all_its_64_bits() -> None:
    low = range_of("keys", Stream(seed=1, parameter=0, step=0), 0, 64)
    high = range_of("keys", Stream(seed=1 + (1 << 63), parameter=0, step=0), 0, 64)
    assert not torch.equal(low, high)


def test_parameter_words_do_not_depend_on_order_and_never_collide() -> None:
    names = [f"layers.{layer}.weight" for layer in range(1000)]
    words = parameter_words(names)
    assert words == parameter_words(reversed(names))
    assert len(set(words.values())) == len(names)
    assert all(0 <= word < 1 << 32 for word in words.values())


def test_the_word_of_a_name_never_changes() -> None:
    assert parameter_words(["lm_head.weight"]) == {"lm_head.weight": 0x6CFD0FAE}


def test_colliding_hashes_get_different_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zolightning.perturbation.noise._hash32", len)
    words = parameter_words(["aa", "bb", "cc"])
    assert len(set(words.values())) == 3
