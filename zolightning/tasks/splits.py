"""Training, development and test examples that never overlap."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from zolightning.errors import ConfigurationError
from zolightning.tasks.records import Record


@dataclass(frozen=True)
class Splits:
    """The records of a run: ``train`` to learn from, ``dev`` to select by, ``test`` to report."""

    train: list[Record]
    dev: list[Record]
    test: list[Record]


@dataclass(frozen=True)
class SplitSizes:
    """How many records each split shall have; the test split may be smaller than asked.

    Raises:
        ConfigurationError: If a number is below 1.
    """

    train: int
    dev: int
    test: int

    def __post_init__(self) -> None:
        """Refuse what is no split."""
        for name, value in (("num_train", self.train), ("num_dev", self.dev), ("num_test", self.test)):
            if value < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {value}")

    def but(self, train: int | None, dev: int | None, test: int | None) -> SplitSizes:
        """Return these sizes, but for those that are given."""
        given = {"train": train, "dev": dev, "test": test}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


def shuffled(records: Sequence[Record], seed: int) -> list[Record]:
    """Return the records in an order that depends on the seed and their number only."""
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    return [records[index] for index in order]


def split_official(train: Sequence[Record], validation: Sequence[Record], sizes: SplitSizes, seed: int) -> Splits:
    """Take train and dev from the training split and test from the official validation split.

    Raises:
        ConfigurationError: If the training split is too small.
    """
    _require(len(train), sizes.train + sizes.dev, f"num_train={sizes.train:,} + num_dev={sizes.dev:,}", "training")
    rows = shuffled(train, seed)
    dev_end = sizes.train + sizes.dev
    return Splits(rows[: sizes.train], rows[sizes.train : dev_end], shuffled(validation, seed)[: sizes.test])


def split_three_ways(records: Sequence[Record], sizes: SplitSizes, seed: int, what: str) -> Splits:
    """Take train, dev and test from one and the same split, called ``what`` in errors.

    Raises:
        ConfigurationError: If the split leaves nothing to test on.
    """
    asked = f"num_train={sizes.train:,} + num_dev={sizes.dev:,} and at least one test example"
    dev_end = sizes.train + sizes.dev
    _require(len(records), dev_end + 1, asked, what)
    rows = shuffled(records, seed)
    return Splits(rows[: sizes.train], rows[sizes.train : dev_end], rows[dev_end : dev_end + sizes.test])


def split_given(
    train: Sequence[Record], dev: Sequence[Record], test: Sequence[Record], sizes: SplitSizes, seed: int
) -> Splits:
    """Take each split from a file of its own.

    Raises:
        ConfigurationError: If the training or development file is too small.
    """
    _require(len(train), sizes.train, f"num_train={sizes.train:,}", "training")
    _require(len(dev), sizes.dev, f"num_dev={sizes.dev:,}", "development")
    return Splits(
        shuffled(train, seed)[: sizes.train], shuffled(dev, seed)[: sizes.dev], shuffled(test, seed)[: sizes.test]
    )


def _require(available: int, needed: int, asked: str, what: str) -> None:
    if needed > available:
        raise ConfigurationError(
            f"{asked} ask for {needed:,} examples of the {what} split, which has {available:,}: "
            f"set num_train and num_dev so that they fit"
        )
