"""Selections: exact counts, ties included, equal to sorting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zolightning.perturbation import masks
from zolightning.perturbation.masks import Score, mask_of, select_smallest
from zolightning.perturbation.noise import Lane, Stream

STREAM = Stream(seed=9, parameter=4, step=0, lane=Lane.MASK)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 700),
    fraction=st.floats(0.01, 1.0),
    dtype=st.sampled_from(DTYPES),
    score=st.sampled_from(["magnitude", "large", "random"]),
    levels=st.sampled_from([2, 17, 10**6]),
    seed=st.integers(0, 100),
)
def test_count_is_exact_whatever_the_ties(
    size: int, fraction: float, dtype: torch.dtype, score: Score, levels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randint(-levels, levels + 1, (size,), generator=generator) / levels).to(dtype)
    count = max(1, round(fraction * size))
    mask = mask_of(select_smallest(score, weight, count, STREAM), weight)
    assert int(mask.sum()) == count
    if score != "random" and count < size:
        inside, outside = weight.abs()[mask], weight.abs()[~mask]
        ordered = inside.max() <= outside.min() if score == "magnitude" else inside.min() >= outside.max()
        assert bool(ordered)


def test_threshold_is_the_quantile_of_magnitudes() -> None:
    weight = torch.randn(1001, generator=torch.Generator().manual_seed(0))
    selection = select_smallest("magnitude", weight, 200, STREAM)
    h = weight.abs().sort().values[199]
    assert torch.equal(mask_of(selection, weight), weight.abs() <= h)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    whole = select_smallest("magnitude", weight, 333, STREAM)
    monkeypatch.setattr(masks, "_CHUNK", 64)
    parts = select_smallest("magnitude", weight, 333, STREAM)
    assert torch.equal(whole.threshold, parts.threshold)
    assert torch.equal(whole.cut, parts.cut)


@pytest.mark.parametrize("count", [0, 11])
def test_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=r"\[1, 10\]"):
        select_smallest("magnitude", torch.ones(10), count, STREAM)
