"""Training, development and test examples that never overlap."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from zolightning.errors import ConfigurationError
from zolightning.tasks.records import Record

# Records of one family are in one split.
Family = Callable[[Record], Hashable]


def origin_of(record: Record) -> Hashable:
    """Return where a record was read: each is a family of its own."""
    return record.origin


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


def shuffled(records: Sequence[Record], seed: int, family: Family = origin_of) -> list[Record]:
    """Return the records, families together, in an order that depends on the seed and the families' sizes only."""
    families: dict[Hashable, list[Record]] = {}
    for record in records:
        families.setdefault(family(record), []).append(record)
    order = list(families.values())
    random.Random(seed).shuffle(order)
    return [record for members in order for record in members]


def split_official(
    train: Sequence[Record],
    validation: Sequence[Record],
    sizes: SplitSizes,
    seed: int,
    family: Family = origin_of,
) -> Splits:
    """Take train and dev from the training split and test from the official validation split.

    Raises:
        ConfigurationError: If the training split is too small.
    """
    asked = f"num_train={sizes.train:,} + num_dev={sizes.dev:,}"
    _require(len(train), sizes.train + sizes.dev, asked, "training")
    learnt, rest = _cut(shuffled(train, seed, family), sizes.train, family)
    dev, _ = _cut(rest, sizes.dev, family)
    _require(len(learnt) + len(dev), sizes.train + sizes.dev, asked, "training")
    return Splits(learnt, dev, shuffled(validation, seed, family)[: sizes.test])


def split_three_ways(
    records: Sequence[Record], sizes: SplitSizes, seed: int, what: str, family: Family = origin_of
) -> Splits:
    """Take train, dev and test from one and the same split, called ``what`` in errors.

    Raises:
        ConfigurationError: If the split leaves nothing to test on.
    """
    asked = f"num_train={sizes.train:,} + num_dev={sizes.dev:,} and at least one test example"
    needed = sizes.train + sizes.dev + 1
    _require(len(records), needed, asked, what)
    train, rest = _cut(shuffled(records, seed, family), sizes.train, family)
    dev, rest = _cut(rest, sizes.dev, family)
    _require(len(train) + len(dev) + len(rest), needed, asked, what)
    return Splits(train, dev, rest[: sizes.test])


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


def _cut(records: Sequence[Record], number: int, family: Family) -> tuple[list[Record], list[Record]]:
    """Return the first records, and those of the rest that are of no family among them."""
    taken, rest = list(records[:number]), records[number:]
    known = family(taken[-1]) if taken else None
    return taken, [record for record in rest if family(record) != known]


def _require(available: int, needed: int, asked: str, what: str) -> None:
    if needed > available:
        raise ConfigurationError(
            f"{asked} ask for {needed:,} examples of the {what} split, which has {available:,}: "
            f"set num_train and num_dev so that they fit"
        )
