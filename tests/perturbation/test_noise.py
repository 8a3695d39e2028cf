"""Directions: moments, independence, and the same numbers under every slicing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.kernels import perturb_into
from zolightning.perturbation.noise import Lane, Stream, blocks, gaussian, parameter_words, random_words

STREAM = Stream(seed=2**40 + 3, parameter=77, step=5)
SIZE = 1 << 18


def test_moments_are_those_of_a_standard_normal() -> None:
    z = gaussian(STREAM, 0, SIZE).double()
    bound = 4.5 / math.sqrt(SIZE)
    assert abs(z.mean()) < bound
    assert abs((z**2).mean() - 1) < bound * math.sqrt(2)
    assert abs((z**3).mean()) < bound * math.sqrt(15)
    assert abs((z**4).mean() - 3) < bound * math.sqrt(96)


def test_distribution_by_kolmogorov_and_smirnov() -> None:
    z = gaussian(STREAM, 0, SIZE).double().sort().values
    expected = torch.special.ndtr(z)
    empirical = torch.arange(1, SIZE + 1, dtype=torch.float64) / SIZE
    assert (empirical - expected).abs().max() < 1.95 / math.sqrt(SIZE)  # the 0.1 % point


def correlation(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).mean())


@pytest.mark.parametrize(
    "other",
    [
        Stream(seed=2**40 + 4, parameter=77, step=5),
        Stream(seed=3, parameter=77, step=5),
        Stream(seed=2**40 + 3, parameter=78, step=5),
        Stream(seed=2**40 + 3, parameter=77, step=6),
        Stream(seed=2**40 + 3, parameter=77, step=5, query=1),
        Stream(seed=2**40 + 3, parameter=77, step=5, lane=Lane.ROUNDING),
    ],
)
def test_streams_are_uncorrelated(other: Stream) -> None:
    assert abs(correlation(gaussian(STREAM, 0, SIZE), gaussian(other, 0, SIZE))) < 4.5 / math.sqrt(SIZE)


@pytest.mark.parametrize("lag", [1, 2, 15, 16, 17, 32, 48, 64, 192])
def test_neighbours_are_uncorrelated(lag: int) -> None:
    z = gaussian(STREAM, 0, SIZE)
    assert abs(correlation(z[lag:], z[:-lag])) < 4.5 / math.sqrt(SIZE)
    squares = z.double() ** 2 - 1
    assert abs(correlation(squares[lag:], squares[:-lag])) < 4.5 * 2 / math.sqrt(SIZE)


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 3000), length=st.integers(0, 3000))
def test_every_slice_equals_the_whole(start: int, length: int) -> None:
    whole = gaussian(STREAM, 0, 6016)
    assert torch.equal(gaussian(STREAM, start, start + length), whole[start : start + length])


def test_blocks_beyond_a_chunk_continue_the_stream() -> None:
    size = (1 << 18) + 100
    weight, out = torch.zeros(size), torch.empty(size)
    perturb_into(out, weight, torch.tensor(1.0), STREAM, None, Compiler(False, size))
    assert torch.equal(out, gaussian(STREAM, 0, size))


def test_seed_uses_all_64_bits() -> None:
    low = gaussian(Stream(seed=1, parameter=0, step=0), 0, 64)
    high = gaussian(Stream(seed=1 + (1 << 63), parameter=0, step=0), 0, 64)
    assert not torch.equal(low, high)


def test_words_are_32_bit() -> None:
    for word in raw_words():
        assert word.min() >= 0
        assert word.max() < 1 << 32


def raw_words() -> tuple[Tensor, ...]:
    words = STREAM.words(torch.device("cpu"))
    return random_words(blocks(words, 100), words[1], words)


def test_unaligned_place_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        STREAM.words(torch.device("cpu"), 5)


def test_parameter_words_do_not_depend_on_order_and_never_collide() -> None:
    names = [f"layers.{layer}.weight" for layer in range(1000)]
    words = parameter_words(names)
    assert words == parameter_words(reversed(names))
    assert len(set(words.values())) == len(names)


def test_colliding_hashes_get_different_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zolightning.perturbation.noise._hash32", len)
    words = parameter_words(["aa", "bb", "cc"])
    assert len(set(words.values())) == 3
