"""Which part of a batch is a rank's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zolightning.models.batch import OptionBatch
    from zolightning.optim.ranks import Ranks


def own_share(batch: OptionBatch, ranks: Ranks) -> OptionBatch | None:
    """Return the rank's share of a batch that is the same on all ranks, or None if the batch is too small to go round.

    Shares follow each other in the order of ranks.
    """
    first, end = ranks.bounds(batch.num_examples)
    return batch.part(first, end) if first < end else None


def stand_in(batch: OptionBatch) -> OptionBatch:
    """Return what a rank runs that has nothing left of a batch, since all ranks run as many forwards."""
    return batch.part(0, 1)
