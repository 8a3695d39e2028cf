"""Taking a step again from its record, without a forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zolightning.errors import ConfigurationError
from zolightning.optim.estimators import Closure, Estimate, Estimator, Prober
from zolightning.optim.method import Method
from zolightning.optim.records import Record
from zolightning.optim.updates import Linear
from zolightning.perturbation.rounding import wide_dtype

if TYPE_CHECKING:
    from zolightning.optim.zeroth_order import ZerothOrderOptimizer


def why_not(optimizer: ZerothOrderOptimizer) -> str | None:
    """Return why a step cannot be taken again from its record, or None if it can."""
    if optimizer.sparsity is not None and optimizer.sparsity.score == "snip":
        return "mask: snip goes by a gradient of the batch"
    if optimizer.engine.options.idle_rows == "skip":
        return "engine.idle_rows: skip moves the rows that the batch reads"
    if optimizer.update.again() is None:
        return f"{type(optimizer.update).__name__} says that it cannot be repeated"
    return None


def recalled(optimizer: ZerothOrderOptimizer, record: Record) -> Method:
    """Return how an optimizer takes the step of a record again, if `why_not` has no objection."""
    walk = optimizer.estimator if optimizer.engine.options.probe == "in_place" else None
    first = next(iter(optimizer.engine.parameters.values()))
    update = optimizer.update.again()
    assert update is not None
    return Method(Recalled(record, first.device, wide_dtype(first.dtype), walk), update)


def goes_in_turn(optimizer: ZerothOrderOptimizer) -> bool:
    """Return whether recorded steps of an optimizer can be taken many at a time, and that pays.

    A mask is picked anew every so often, blocks follow each other, and other updates keep state. The numbers of
    directions that are not of signs are most of an update's work, and each step has its own.
    """
    options, plain = optimizer.engine.options, optimizer.sparsity is None and optimizer.plan is None
    light = options.distribution == "rademacher" and optimizer.num_queries == 1 and options.probe == "in_forward"
    return plain and light and type(optimizer.update.again()) is Linear and why_not(optimizer) is None


def take_in_turn(optimizer: ZerothOrderOptimizer, records: Sequence[Record]) -> None:
    """Take the steps of records again, with the bits of one after the other and fewer passes over the weights.

    Args:
        optimizer: one that `goes_in_turn`.
        records: of its next steps.

    Raises:
        ConfigurationError: if they are of other steps, whose directions are others.
    """
    if [record.step for record in records] != list(range(optimizer.step_count, optimizer.step_count + len(records))):
        raise ConfigurationError(f"the records are not those of step {optimizer.step_count:,} and the next")
    optimizer.engine.begin_step()
    turns = []
    for record in records:
        estimator, update = recalled(optimizer, record)
        assert isinstance(update, Linear)
        estimate = estimator(optimizer, no_loss, optimizer.num_queries)
        with learning_at(optimizer, record.lr):
            turn, factors = update.turn(optimizer, estimate)
            turns.append(turn)
            optimizer.guard.recall(estimate.finite)
            optimizer.count(estimate, estimate.noted(factors))
    optimizer.engine.update_in_turn(turns)


@contextmanager
def learning_at(optimizer: ZerothOrderOptimizer, lr: float) -> Iterator[None]:
    """Let the step within have a learning rate of its own."""
    kept = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = lr
    try:
        yield
    finally:
        for group, own in zip(optimizer.param_groups, kept, strict=True):
            group["lr"] = own


def no_loss() -> Tensor:
    """Stand in for a closure where none is called."""
    raise AssertionError("a step that follows a record takes no forward")


class Recalled:
    """An estimator that knows from a record what a step's probes found, one block after another.

    Args:
        record: of the step.
        device: where the losses were.
        dtype: of the losses.
        walk: the estimator of the step, for in-place probes: the weights take the same walk, which rounds; None where
            probes do not move the weights.
    """

    def __init__(self, record: Record, device: torch.device, dtype: torch.dtype, walk: Estimator | None) -> None:
        self._loss = torch.tensor(record.loss, dtype=dtype, device=device)
        self._left: Sequence[float] = record.factors
        self._walk = walk

    def __call__(self, prober: Prober, closure: Closure, num_queries: int) -> Estimate:
        """Return the next block's part of the record."""
        if self._walk is not None:
            self._walk(prober, lambda: self._loss, num_queries)
        part, self._left = self._left[:num_queries], self._left[num_queries:]
        factors = self._loss.new_tensor(part)
        finite = factors.isfinite().all()
        return Estimate(self._loss, torch.where(finite, factors, 0.0), finite)
