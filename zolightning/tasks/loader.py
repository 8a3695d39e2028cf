"""Batches of examples in a seeded order, from which a run can be resumed in the middle of an epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from zolightning.errors import ConfigurationError
from zolightning.models.batch import OptionBatch, collate
from zolightning.models.question import Example

_T = TypeVar("_T")

# Enough batches to find examples of like length among, few enough that each epoch groups them differently.
_BATCHES_SORTED_TOGETHER = 50


class LengthGroupedBatches:
    """Shuffled batches of examples of like length: every example once an epoch, another order in every epoch.

    Args:
        lengths: The length of each example.
        batch_size: Examples in a batch; one batch of an epoch holds the remainder.
        seed: Of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, number: int) -> list[Sequence[int]]:
        """The batches of an epoch, each a list of example numbers."""
        # A string seed is hashed whole: neighbouring seeds and epochs share nothing.
        generator = random.Random(f"{self.seed}:{number}")
        order = list(range(len(self.lengths)))
        generator.shuffle(order)
        together = self.batch_size * _BATCHES_SORTED_TOGETHER
        alike = [
            example
            for first in range(0, len(order), together)
            for example in sorted(order[first : first + together], key=self.lengths.__getitem__)
        ]
        batches = _cut(alike, self.batch_size)
        generator.shuffle(batches)
        return batches


class ResumableLoader:
    """Endless training batches of which each iterator hands out one epoch's number, from where the last one stopped.

    Lightning saves and restores the state of a loader that has one, but is not always right about where an epoch ends:
    resumed from a checkpoint of a finished run, it takes one batch for an epoch's last and asks for a new iterator. So
    the place is the loader's own, and what comes next does not depend on when iterators are made.

    This is no ``DataLoader``: those Lightning would hand a distributed sampler, whereas here every process gets the
    same batches, and whoever wants a share of a batch splits it.

    Args:
        examples: What to load.
        order: Which examples make up which batch of which epoch.
        row_limit: See :func:`~zolightning.models.batch.collate`.
    """

    def __init__(self, examples: Sequence[Example], order: LengthGroupedBatches, row_limit: int = 0) -> None:
        self.examples = examples
        self.order = order
        self.row_limit = row_limit
        self._epoch = 0
        self._batch = 0
        self._batches: list[Sequence[int]] | None = None

    def __len__(self) -> int:
        """Batches in an epoch, which spares Lightning from fetching one ahead to know whether there is one."""
        return len(self.order)

    def __iter__(self) -> Iterator[OptionBatch]:
        """Hand out as many batches as an epoch has, from the present place on."""
        for _ in range(len(self)):
            yield self._next()

    def _next(self) -> OptionBatch:
        if self._batch == len(self):
            self._epoch, self._batch, self._batches = self._epoch + 1, 0, None
        if self._batches is None:
            self._batches = self.order.epoch(self._epoch)
        batch = self._batches[self._batch]
        # Counted before the step on it: a checkpoint is written when that is done.
        self._batch += 1
        return collate([self.examples[index] for index in batch], self.row_limit)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches have been handed out."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from where the state was taken.

        Raises:
            ConfigurationError: If the epoch has fewer batches than the state says were handed out.
        """
        if state["batch"] > len(self):
            raise ConfigurationError(
                f"the checkpoint was written after batch {state['batch']} of an epoch, but an epoch has {len(self)} "
                f"batches: resume with the num_train, batch_size and data of the interrupted run"
            )
        self._epoch, self._batch, self._batches = state["epoch"], state["batch"], None


class EvaluationLoader:
    """The same batches every time.

    Args:
        examples: What to load.
        batch_size: Examples in a batch; the last batch holds the remainder.
        longest_first: Order by length, so that there is the least padding and what does not fit in memory fails at
            once; otherwise as the examples come.
        row_limit: See :func:`~zolightning.models.batch.collate`.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, longest_first: bool, row_limit: int = 0) -> None:
        ordered = sorted(examples, key=lambda example: example.length, reverse=True) if longest_first else examples
        self.batches = _cut(ordered, batch_size)
        self.row_limit = row_limit

    def __len__(self) -> int:
        """Batches in all."""
        return len(self.batches)

    def __iter__(self) -> Iterator[OptionBatch]:
        """Hand out every batch."""
        return (collate(batch, self.row_limit) for batch in self.batches)


def _cut(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
