"""Splits: disjoint, of the size asked, and refused where there is too little."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zolightning.errors import ConfigurationError
from zolightning.tasks.records import Record
from zolightning.tasks.splits import SplitPlan, Splits, SplitSizes, shuffled

COUNT = st.integers(1, 30)


def records(number: int, name: str = "train") -> list[Record]:
    return [Record({}, f"{name}:{index}") for index in range(number)]


def origins(splits: Splits) -> list[list[str]]:
    return [[record.origin for record in rows] for rows in (splits.train, splits.dev, splits.test)]


def assert_disjoint(splits: Splits, sizes: SplitSizes, available_to_test: int) -> None:
    train, dev, test = origins(splits)
    assert len({*train, *dev, *test}) == len(train) + len(dev) + len(test)
    assert (len(train), len(dev), len(test)) == (sizes.train, sizes.dev, min(sizes.test, available_to_test))


@given(train=COUNT, dev=COUNT, test=COUNT, spare=st.integers(0, 20), validation=COUNT, seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_official_splits_are_disjoint(train: int, dev: int, test: int, spare: int, validation: int, seed: int) -> None:
    sizes = SplitSizes(train, dev, test)
    rows = records(train + dev + spare)
    splits = SplitPlan(sizes, None, seed).split(rows, records(validation, "validation"))
    assert_disjoint(splits, sizes, validation)
    assert {origin.split(":")[0] for origin in origins(splits)[2]} == {"validation"}
    # More dev or test examples leave the training examples as they are.
    assert SplitPlan(SplitSizes(train, 1, 1), None, seed).split(rows, rows).train == splits.train


@given(train=COUNT, dev=COUNT, test=COUNT, rest=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_three_way_splits_are_disjoint(train: int, dev: int, test: int, rest: int, seed: int) -> None:
    sizes = SplitSizes(train, dev, test)
    assert_disjoint(SplitPlan(sizes, None, seed).split(None, records(train + dev + rest)), sizes, rest)


def test_given_splits_keep_to_their_files() -> None:
    splits = SplitPlan(SplitSizes(4, 4, 4), None, 0).keep(records(5, "a"), records(4, "b"), records(3, "c"))
    assert [{origin[0] for origin in rows} for rows in origins(splits)] == [{"a"}, {"b"}, {"c"}]
    assert list(map(len, origins(splits))) == [4, 4, 3]


def test_the_order_depends_on_the_seed_alone() -> None:
    rows = records(50)
    assert shuffled(rows, 1) == shuffled(rows, 1) != shuffled(rows, 2)
    assert sorted(shuffled(rows, 1), key=rows.index) == rows


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, -2)])
def test_empty_splits_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigurationError, match=r"num_(train|dev|test) must be at least 1, got (0|-2)"):
        SplitSizes(*sizes)


def test_too_little_data_is_refused() -> None:
    plan = SplitPlan(SplitSizes(1000, 500, 1), None, 0)
    with pytest.raises(
        ConfigurationError, match=r"num_train=1,000 \+ num_dev=500 ask for 1,500 examples of the training "
    ):
        plan.split(records(1499), records(1))
    with pytest.raises(ConfigurationError, match=r"1,501 examples of the only split, which has 1,500: set num_"):
        plan.split(None, records(1500))
    with pytest.raises(ConfigurationError, match=r"num_dev=500 ask for 500 examples of the development split"):
        plan.keep(records(1000), records(499), records(1))


def first(record: Record) -> str:
    return record.origin.split(":")[0]


@given(sizes=st.lists(st.integers(1, 5), min_size=4, max_size=30), train=COUNT, dev=COUNT, seed=st.integers(0, 9))
def test_families_stay_together(sizes: list[int], train: int, dev: int, seed: int) -> None:
    rows = [Record({}, f"{family}:{index}") for family, n in enumerate(sizes) for index in range(n)]
    try:
        splits = SplitPlan(SplitSizes(train, dev, 7), None, seed).split(rows, rows, first)
    except ConfigurationError:
        # Members of a family that is cut are lost.
        assert train + dev > sum(sizes) - 2 * max(sizes)
        return
    assert (len(splits.train), len(splits.dev)) == (train, dev)
    assert not set(map(first, splits.train)) & set(map(first, splits.dev))


def test_shots_of_each_label() -> None:
    rows = [Record({}, f"{index % 3}:{index}") for index in range(20)]
    splits = SplitPlan(SplitSizes(1, 1, 5), 2, 0).split(rows, records(9, "val"), label=first)
    for split in (splits.train, splits.dev):
        assert sorted(map(first, split)) == list("001122")
    assert_disjoint(splits, SplitSizes(6, 6, 5), 9)
    plan = SplitPlan(SplitSizes(1, 1, 5), 4, 0)
    with pytest.raises(ConfigurationError, match=r"k_shot=4 takes as many .* has too few"):
        plan.split(rows, rows, label=first)
    with pytest.raises(ConfigurationError, match="from the training file, and there is none"):
        plan.split(None, rows)
    with pytest.raises(ConfigurationError, match="each split has its own"):
        plan.keep(rows, rows, rows)
    with pytest.raises(ConfigurationError, match="k_shot must be at least 1, or null, got 0"):
        SplitPlan(SplitSizes(1, 1, 5), 0, 0)


def test_shots_of_families_are_in_one_split() -> None:
    rows = [Record({}, f"{index % 2}:{index // 4}:{index}") for index in range(80)]

    def family(record: Record) -> str:
        return record.origin.split(":")[1]

    splits = SplitPlan(SplitSizes(1, 1, 5), 6, 0).split(rows, records(9, "val"), family, first)
    assert not set(map(family, splits.train)) & set(map(family, splits.dev))
    for split in (splits.train, splits.dev):
        assert sorted(map(first, split)) == list("000000111111")
        # In no order of labels, by which demonstrations or batches would have one alone.
        assert list(map(first, split)) != sorted(map(first, split))
