"""Splits: disjoint, of the size asked, and refused where there is too little."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zolightning.errors import ConfigurationError
from zolightning.tasks.records import Record
from zolightning.tasks.splits import Splits, SplitSizes, shuffled, split_given, split_official, split_three_ways

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
    splits = split_official(rows, records(validation, "validation"), sizes, seed)
    assert_disjoint(splits, sizes, validation)
    assert {origin.split(":")[0] for origin in origins(splits)[2]} == {"validation"}
    # More dev or test examples leave the training examples as they are.
    assert split_official(rows, rows, SplitSizes(train, 1, 1), seed).train == splits.train


@given(train=COUNT, dev=COUNT, test=COUNT, rest=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_three_way_splits_are_disjoint(train: int, dev: int, test: int, rest: int, seed: int) -> None:
    sizes = SplitSizes(train, dev, test)
    assert_disjoint(split_three_ways(records(train + dev + rest), sizes, seed, "validation"), sizes, rest)


def test_given_splits_keep_to_their_files() -> None:
    splits = split_given(records(5, "a"), records(4, "b"), records(3, "c"), SplitSizes(4, 4, 4), seed=0)
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
    sizes = SplitSizes(1000, 500, 1)
    with pytest.raises(
        ConfigurationError, match=r"num_train=1,000 \+ num_dev=500 ask for 1,500 examples of the training "
    ):
        split_official(records(1499), records(1), sizes, 0)
    with pytest.raises(ConfigurationError, match=r"1,501 examples of the validation split, which has 1,500: set num_"):
        split_three_ways(records(1500), sizes, 0, "validation")
    with pytest.raises(ConfigurationError, match=r"num_dev=500 ask for 500 examples of the development split"):
        split_given(records(1000), records(499), records(1), sizes, 0)
