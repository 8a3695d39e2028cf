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


@dataclass(frozen=True)
class SplitPlan:
    """How a data set's official splits become a run's.

    Attributes:
        sizes: How many records each split shall have.
        k_shot: If given, how many training records of each label there shall be, and how many dev records, instead.
        seed: Of the choice.

    Raises:
        ConfigurationError: If k_shot is below 1.
    """

    sizes: SplitSizes
    k_shot: int | None
    seed: int

    def __post_init__(self) -> None:
        """Refuse what is no number of shots."""
        if self.k_shot is not None and self.k_shot < 1:
            raise ConfigurationError(f"k_shot must be at least 1, or null, got {self.k_shot}")

    def split(
        self,
        train: Sequence[Record] | None,
        validation: Sequence[Record],
        family: Family = origin_of,
        label: Family = origin_of,
    ) -> Splits:
        """Take train and dev from the training split and test from the official validation split, or all from that.

        Args:
            train: The training split, or None if there is none.
            validation: The official validation split.
            family: Records of one family are in one split.
            label: Of a record, for `k_shot`.

        Raises:
            ConfigurationError: If there are too few records.
        """
        if train is None:
            return self._three_ways(validation, family)
        if self.k_shot is None:
            learnt, dev = self._sized(train, family)
        else:
            learnt, dev = self._few(train, self.k_shot, label, family)
        return Splits(learnt, dev, shuffled(validation, self.seed, family)[: self.sizes.test])

    def keep(self, train: Sequence[Record], dev: Sequence[Record], test: Sequence[Record]) -> Splits:
        """Take each split from a file of its own.

        Raises:
            ConfigurationError: If the training or development file is too small, or `k_shot` is set.
        """
        if self.k_shot is not None:
            raise ConfigurationError("k_shot divides a training file, and here each split has its own: set num_train")
        sizes = self.sizes
        _require(len(train), sizes.train, f"num_train={sizes.train:,}", "training")
        _require(len(dev), sizes.dev, f"num_dev={sizes.dev:,}", "development")
        wanted = ((train, sizes.train), (dev, sizes.dev), (test, sizes.test))
        return Splits(*(shuffled(records, self.seed)[:number] for records, number in wanted))

    def _sized(self, train: Sequence[Record], family: Family) -> tuple[list[Record], list[Record]]:
        sizes = self.sizes
        asked = f"num_train={sizes.train:,} + num_dev={sizes.dev:,}"
        _require(len(train), sizes.train + sizes.dev, asked, "training")
        learnt, rest = _cut(shuffled(train, self.seed, family), sizes.train, family)
        dev, _ = _cut(rest, sizes.dev, family)
        _require(len(learnt) + len(dev), sizes.train + sizes.dev, asked, "training")
        return learnt, dev

    def _three_ways(self, records: Sequence[Record], family: Family) -> Splits:
        if self.k_shot is not None:
            raise ConfigurationError("k_shot takes examples of each label from the training file, and there is none")
        sizes = self.sizes
        asked = f"num_train={sizes.train:,} + num_dev={sizes.dev:,} and at least one test example"
        needed = sizes.train + sizes.dev + 1
        _require(len(records), needed, asked, "only")
        train, rest = _cut(shuffled(records, self.seed, family), sizes.train, family)
        dev, rest = _cut(rest, sizes.dev, family)
        _require(len(train) + len(dev) + len(rest), needed, asked, "only")
        return Splits(train, dev, rest[: sizes.test])

    def _few(
        self, train: Sequence[Record], shots: int, label: Family, family: Family
    ) -> tuple[list[Record], list[Record]]:
        rows = shuffled(train, self.seed)
        labels = {label(record) for record in rows}
        learnt = _of_each(rows, labels, shots, label)
        known = {family(record) for record in learnt}
        dev = _of_each([record for record in rows if family(record) not in known], labels, shots, label)
        return learnt, dev


def _of_each(records: Sequence[Record], labels: set[Hashable], number: int, label: Family) -> list[Record]:
    """Return the first records of each label, in their order."""
    taken = dict.fromkeys(labels, 0)
    kept = []
    for record in records:
        if taken[label(record)] < number:
            taken[label(record)] += 1
            kept.append(record)
    for name, there in taken.items():
        if there < number:
            raise ConfigurationError(
                f"k_shot={number:,} takes as many records of each label to train on and to select by, and of label "
                f"{name} the training split has too few"
            )
    return kept


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
