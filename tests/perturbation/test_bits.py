"""Kept masks: packed and read back, whole, in tiles and in rows."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zolightning.perturbation import masks, motion
from zolightning.perturbation.bits import packed
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.masks import Selection, kept, mask_at, mask_of, select_smallest
from zolightning.perturbation.motion import Motion, moved_rows, subtract
from zolightning.perturbation.noise import Lane, Stream
from zolightning.perturbation.ranges import Kind, range_of

EAGER = Compiler(False, 0)
STREAM = Stream(3, 5, step=1)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 5000), seed=st.integers(0, 100), data=st.data())
def test_a_kept_mask_is_the_mask(size: int, seed: int, data: st.DataObject) -> None:
    mask = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.3
    selection, weight = kept_mask(mask), torch.zeros(size)
    assert torch.equal(mask_of(selection, weight), mask)
    width = data.draw(st.integers(1, size))
    starts = torch.tensor(data.draw(st.lists(st.integers(0, size - width), min_size=1, max_size=4)))
    index = starts.unsqueeze(1) + torch.arange(width)
    assert torch.equal(mask_at(selection, weight[index], starts, EAGER), mask[index])


def kept_mask(mask: Tensor) -> Selection:
    """Keep a mask as the largest of numbers that are one within it."""
    stream = Stream(STREAM.seed, STREAM.parameter, STREAM.step, lane=Lane.MASK)
    numbers = mask.float()
    if not mask.any():
        return replace(kept(select_smallest("large", numbers, 1, stream), numbers), bits=packed(mask))
    with mock.patch.object(masks, "_CHUNK", 2048):
        return kept(select_smallest("large", numbers, int(mask.sum()), stream), numbers)


@pytest.mark.parametrize("kind", ["gaussian", "signs"])
@pytest.mark.parametrize("size", [1, 64, 2048, 2049, 6400, 10_000])
def test_weights_move_where_the_mask_says(kind: Kind, size: int) -> None:
    weight = torch.randn(size, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.5
    change = Motion(kind, [STREAM], torch.tensor([0.5]), None, kept_mask(mask))
    z = range_of(kind, STREAM, 0, size)
    expected = torch.where(mask, weight - 0.5 * z, weight)
    moved = weight.clone()
    with mock.patch.dict(motion._CHUNK, {"cpu": 2048}):
        subtract(moved, change, EAGER)
    assert torch.equal(moved, expected)
    starts = torch.tensor([0, size // 2])
    index = starts.unsqueeze(1) + torch.arange(size // 2)
    assert torch.equal(moved_rows(weight[index], starts, change, EAGER), expected[index])


def test_a_bit_a_weight_is_kept() -> None:
    bits = packed(torch.ones(1 << 20, dtype=torch.bool))
    assert bits.numel() * bits.element_size() == (1 << 20) / 8 + 256
