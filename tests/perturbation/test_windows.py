"""Parts that begin and end anywhere get the bits that the whole has there, in eager and in compiled code."""

from __future__ import annotations

import itertools
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zolightning.perturbation import motion, pieces
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.masks import Score, Selection, select_smallest
from zolightning.perturbation.motion import Motion, subtract
from zolightning.perturbation.noise import Lane, Stream, unit
from zolightning.perturbation.pieces import in_pieces
from zolightning.perturbation.ranges import Kind
from zolightning.perturbation.shards import Part
from zolightning.perturbation.windows import overlap, windows

STREAM = Stream(seed=2**40 + 3, parameter=77, step=5)
ROUNDING = replace(STREAM, lane=Lane.ROUNDING)
UNIT = unit(1)
EAGER = Compiler(False, 0)


def weights(size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)


def cuts(size: int, *places: int) -> list[range]:
    """Return the parts that a weight is cut into at given places."""
    bounds = [0, *sorted(min(place, size) for place in places), size]
    return [range(*pair) for pair in itertools.pairwise(bounds)]


def motion_of(weight: Tensor, kind: Kind, score: Score | None) -> Motion:
    selection: Selection | None = None
    if score is not None:
        selection = select_smallest(score, weight, weight.numel() // 3, replace(STREAM, lane=Lane.MASK))
    coefficients = torch.tensor([0.3, -0.1])
    streams = [STREAM, replace(STREAM, query=1)]
    rounding = ROUNDING if weight.dtype == torch.bfloat16 else None
    return Motion(kind, streams, coefficients, torch.tensor(0.01), selection, rounding)


def check_parts(size: int, places: list[int], kind: Kind, score: Score | None, compiler: Compiler) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        whole = weights(size, dtype)
        moving, parts = motion_of(whole, kind, score), whole.clone()
        for part in cuts(size, *places):
            subtract(parts[part.start : part.stop], moving, compiler, first=part.start, within=range(size))
        subtract(whole, moving, compiler)
        assert torch.equal(parts, whole)


@settings(max_examples=100)
@given(
    start=st.integers(0, 4 * UNIT), length=st.integers(0, 9 * UNIT), before=st.integers(0, 3), after=st.integers(0, 999)
)
def test_windows_hold_a_part_once(start: int, length: int, before: int, after: int) -> None:
    part = range(start, start + length)
    chunk = range(max(0, start // UNIT - before) * UNIT, part.stop + after)
    found = list(windows(part, chunk))
    assert [number for window in found for number in overlap(window, part)] == list(part)
    assert found == [chunk] or all(w.start % UNIT == 0 and len(w) % UNIT == 0 and len(w) >= 2 * UNIT for w in found)


@settings(max_examples=25)
@given(
    size=st.integers(1, 20_000),
    places=st.lists(st.integers(0, 20_000), max_size=3),
    kind=st.sampled_from(["gaussian", "signs"]),
    score=st.sampled_from([None, "magnitude", "random"]),
)
def test_parts_move_as_in_the_whole(size: int, places: list[int], kind: Kind, score: Score | None) -> None:
    with mock.patch.dict(motion._CHUNK, {"cpu": 2 * UNIT}):
        check_parts(max(size, 3), places, kind, score, EAGER)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian", "signs"])
def test_compiled_parts_move_as_in_the_whole(kind: Kind) -> None:
    compiler = Compiler(True, 0)
    with mock.patch.dict(motion._CHUNK, {"cpu": 4 * UNIT}):
        check_parts(
            11 * UNIT + 77, [3 * UNIT + 5, 7 * UNIT, 11 * UNIT + 70, 11 * UNIT + 76], kind, "magnitude", compiler
        )
    assert compiler.enabled


@settings(max_examples=25)
@given(size=st.integers(3, 20_000), places=st.lists(st.integers(0, 20_000), max_size=3))
def test_pieces_of_parts_are_pieces_of_the_whole(size: int, places: list[int]) -> None:
    weight = weights(size, torch.bfloat16)
    moving = replace(motion_of(weight, "gaussian", "random"), decay=None, rounding=None)

    def collected(part: Part) -> list[Tensor]:
        found = []
        for piece in in_pieces("weight", part, moving, ROUNDING, EAGER):
            assert piece.mask is not None
            assert piece.words is not None
            assert torch.equal(piece.of(part.flat), piece.weight)
            found.append(torch.stack([piece.weight.float(), piece.estimate, piece.mask.float(), piece.words.float()]))
        return found

    with mock.patch.dict(pieces._ELEMENTS, {"cpu": 2 * UNIT}):
        whole = torch.cat(collected(Part.all_of(weight)), 1)
        parts = [Part(weight[part.start : part.stop], part.start, size) for part in cuts(size, *places)]
        assert torch.equal(torch.cat([found for part in parts for found in collected(part)], 1), whole)
