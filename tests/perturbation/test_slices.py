"""The same noise under every slicing: by range, by rows, by chunk, by bundle, in and out of place."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zolightning.perturbation import bundle, motion
from zolightning.perturbation.bundle import Bundle
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.masks import Score, Selection, mask_of, select_smallest
from zolightning.perturbation.motion import Motion, moved_rows, subtract
from zolightning.perturbation.noise import Lane, Stream, unit
from zolightning.perturbation.ranges import BITS, Kind, noise_at, range_of

STREAM = Stream(seed=2**40 + 3, parameter=77, step=5)
ROUNDING = replace(STREAM, lane=Lane.ROUNDING)
EAGER = Compiler(False, 0)
CPU = torch.device("cpu")
# Past two units of the widest kind.
SIZE = 4500
WHOLE: dict[Kind, Tensor] = {kind: range_of(kind, STREAM, 0, SIZE) for kind in BITS}
SCALE = torch.tensor(0.25)
kinds = st.sampled_from(list(BITS))
directions = st.sampled_from(["gaussian", "signs"])


def weights(size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)


def selection_of(weight: Tensor, score: Score | None) -> Selection | None:
    if score is None:
        return None
    return select_smallest(score, weight, max(1, weight.numel() // 3), replace(STREAM, lane=Lane.MASK))


def probing(kind: Kind, selection: Selection | None) -> Motion:
    """Return what a probe at theta + SCALE z subtracts."""
    return Motion(kind, [STREAM], -SCALE.unsqueeze(0), selection=selection)


def moved(weight: Tensor, kind: Kind, selection: Selection | None) -> Tensor:
    """Return weight + SCALE z, written from the formula."""
    z = range_of(kind, STREAM, 0, weight.numel())
    out = (weight.float() + SCALE * z).to(weight.dtype)
    return out if selection is None else torch.where(mask_of(selection, weight), out, weight)


@settings(max_examples=60)
@given(kind=kinds, start=st.integers(0, SIZE), length=st.integers(0, SIZE))
def test_every_range_is_a_part_of_the_whole(kind: Kind, start: int, length: int) -> None:
    stop = min(start + length, SIZE)
    assert torch.equal(range_of(kind, STREAM, start, stop), WHOLE[kind][start:stop])


@settings(max_examples=60)
@given(kind=kinds, width=st.integers(1, 300), data=st.data())
def test_rows_at_any_places_are_parts_of_the_whole(kind: Kind, width: int, data: st.DataObject) -> None:
    starts = torch.tensor(data.draw(st.lists(st.integers(0, SIZE - width), min_size=1, max_size=6)))
    expected = torch.stack([WHOLE[kind][start : start + width] for start in starts.tolist()])
    assert torch.equal(noise_at(kind, STREAM, starts, width), expected)


def test_ranges_far_into_a_stream_do_not_wrap() -> None:
    """A weight of 2^32 elements is larger than a counter's block would be in bytes; ranges go on beyond it."""
    far = 2**32 - 5
    for kind in BITS:
        wide = range_of(kind, STREAM, far, far + 300)
        assert torch.equal(range_of(kind, STREAM, far + 100, far + 200), wide[100:200])
        assert not torch.equal(wide[5:205], WHOLE[kind][:200])


@settings(max_examples=40)
@given(
    kind=directions,
    size=st.integers(1, SIZE),
    chunk=st.sampled_from([2048, 1 << 20]),
    score=st.sampled_from([None, "magnitude", "random"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_weight_perturbed_in_chunks_equals_the_formula(
    kind: Kind, size: int, chunk: int, score: Score | None, dtype: torch.dtype
) -> None:
    weight = weights(size, dtype)
    selection = selection_of(weight, score)
    expected, out = moved(weight, kind, selection), torch.empty_like(weight)
    with mock.patch.dict(motion._CHUNK, {"cpu": chunk}):
        subtract(weight, probing(kind, selection), EAGER, out)
        assert torch.equal(out, expected)
        subtract(weight, probing(kind, selection), EAGER)
    assert torch.equal(weight, expected), "in its own place"


@settings(max_examples=30)
@given(
    kind=directions,
    columns=st.sampled_from([1, 3, 16, 24, 64, 65, 96, 128]),
    score=st.sampled_from([None, "magnitude", "random"]),
    data=st.data(),
)
def test_row_chunks_and_looked_up_rows_equal_the_whole(
    kind: Kind, columns: int, score: Score | None, data: st.DataObject
) -> None:
    rows = SIZE // columns
    table = weights(rows * columns).view(rows, columns)
    selection = selection_of(table.view(-1), score)
    expected = moved(table.view(-1), kind, selection).view(rows, columns)
    # Chunks of rows begin at whole units of signs, the widest.
    first = data.draw(st.sampled_from(range(0, rows * columns, unit(1))))
    stop = data.draw(st.integers(first, rows * columns))
    part = torch.empty(stop - first)
    subtract(table.view(-1)[first:stop], probing(kind, selection), EAGER, part, first)
    assert torch.equal(part, expected.view(-1)[first:stop])
    numbers = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=8)))
    seen = moved_rows(table[numbers], numbers * columns, probing(kind, selection), EAGER)
    assert torch.equal(seen, expected[numbers])


@settings(max_examples=30)
@given(
    kind=directions,
    size=st.integers(1, SIZE),
    chunk=st.sampled_from([2048, 1 << 20]),
    score=st.sampled_from([None, "magnitude", "random"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    data=st.data(),
)
def test_an_update_in_chunks_equals_one_of_rows(
    kind: Kind, size: int, chunk: int, score: Score | None, dtype: torch.dtype, data: st.DataObject
) -> None:
    weight = weights(size, dtype)
    selection, before = selection_of(weight, score), weight.clone()
    rounding = None if dtype == torch.float32 else ROUNDING
    streams = [STREAM, replace(STREAM, query=1)]
    change = Motion(kind, streams, torch.tensor([0.1, -0.2]), torch.tensor(0.01), selection, rounding)
    with mock.patch.dict(motion._CHUNK, {"cpu": chunk}):
        subtract(weight, change, EAGER)
    width = data.draw(st.integers(1, min(size, 200)))
    starts = torch.tensor(data.draw(st.lists(st.integers(0, size - width), min_size=1, max_size=5)))
    index = starts.unsqueeze(1) + torch.arange(width)
    assert torch.equal(moved_rows(before[index], starts, change, EAGER), weight[index])


@settings(max_examples=40)
@given(
    kind=st.sampled_from(["gaussian", "signs", "halves"]), sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6)
)
def test_a_bundle_gives_each_parameter_its_own_stream(kind: Kind, sizes: list[int]) -> None:
    named = {f"parameter {number}": size for number, size in enumerate(sizes)}
    words = {name: 1000 + number for number, name in enumerate(named)}
    noise = Bundle(named, words, CPU, EAGER).noise(kind, STREAM)
    assert noise.keys() == named.keys()
    for name, size in named.items():
        assert torch.equal(noise[name], range_of(kind, replace(STREAM, parameter=words[name]), 0, size)), name


def test_a_bundle_takes_the_smallest_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LIMIT", 100)
    sizes = {"a": 60, "b": 30, "c": 10, "d": 200}
    small = Bundle(sizes, dict.fromkeys(sizes, 1), CPU, EAGER)
    assert [name for name in sizes if name in small] == ["a", "b", "c"]
    assert Bundle({"d": 200}, {"d": 1}, CPU, EAGER).noise("gaussian", STREAM) == {}
