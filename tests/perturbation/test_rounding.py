"""Stochastic rounding: exact on the grid, a neighbour off it, right in the mean."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zolightning.perturbation.noise import Lane, Stream
from zolightning.perturbation.ranges import range_of
from zolightning.perturbation.rounding import stochastic_round

HALF = [torch.bfloat16, torch.float16]
WORDS = range_of("halves", Stream(0, 0, 0, lane=Lane.ROUNDING), 0, 1 << 16)


@pytest.mark.parametrize("dtype", HALF)
def test_every_finite_number_of_the_grid_stays(dtype: torch.dtype) -> None:
    grid = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    grid = grid[torch.isfinite(grid)]
    rounded = stochastic_round(grid.float(), WORDS[: grid.numel()], dtype)
    assert torch.equal(rounded.view(torch.int16), grid.view(torch.int16))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_infinities_and_nans_stay(dtype: torch.dtype, value: float) -> None:
    rounded = stochastic_round(torch.full((64,), value), WORDS[:64], dtype)
    assert torch.equal(rounded.isnan(), torch.full((64,), math.isnan(value)))
    assert torch.equal(rounded.nan_to_num(0.0), torch.full((64,), value, dtype=dtype).nan_to_num(0.0))


@settings(max_examples=50, deadline=None)
@given(value=st.floats(-8.0, 8.0, width=32).filter(lambda x: x == 0 or abs(x) > 1e-7), half=st.sampled_from(HALF))
def test_mean_is_the_value_and_results_are_neighbours(value: float, half: torch.dtype) -> None:
    values = torch.full((WORDS.numel(),), value)
    rounded = stochastic_round(values, WORDS, half).double()
    low, high = rounded.min(), rounded.max()
    assert low <= value <= high
    spacing = float(high - low)
    nearest = float(torch.tensor(value).to(half))
    assert abs(nearest - value) <= max(spacing, 1e-30)
    assert len(set(rounded.tolist())) <= 2
    assert abs(float(rounded.mean()) - value) <= 4.5 * spacing / math.sqrt(WORDS.numel()) / 2 + spacing * 2**-13


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        stochastic_round(torch.zeros(1), WORDS[:1], torch.float32)


def test_no_number_that_float16_holds_becomes_infinite() -> None:
    values = torch.tensor([65503.0, 65505.0, 65519.0, -65519.0]).repeat_interleave(1 << 16)
    words = torch.arange(1 << 16, dtype=torch.int32).repeat(4)
    rounded = stochastic_round(values, words, torch.float16)
    assert bool(torch.isfinite(rounded).all())
    assert torch.equal(rounded[1 << 16 :], values[1 << 16 :].half()), "beyond the largest number, to nearest"
