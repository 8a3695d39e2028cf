"""Scoring a model on a task's examples, in a Trainer's loop or outside of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from zolightning.optim.ranks import ALONE, Ranks
from zolightning.phases import phase
from zolightning.shares import own_share, stand_in

if TYPE_CHECKING:
    from zolightning.models.batch import OptionBatch
    from zolightning.tasks.base import Task


class Evaluation(nn.Module):
    """The task's metrics and the mean loss over the batches that it is given.

    A module, so that its running sums move to the model's device with it.

    Args:
        task: gives the loss, the scores and the metrics.
        ranks: each of which scores its share of every batch, in a forward each; what `compute` returns is of all.
    """

    def __init__(self, task: Task, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.ranks = ranks
        self.metrics: MetricCollection = task.metrics()
        self.loss = MeanMetric()
        self._task = task

    @property
    def names(self) -> tuple[str, ...]:
        """What `compute` returns, by name."""
        return (*self.metrics, "loss")

    def add(self, model: nn.Module, batch: OptionBatch) -> None:
        """Score a batch, the same on every rank: one forward."""
        own = own_share(batch, self.ranks)
        with phase("validation"):
            loss, outcome = self._task.assess(model, stand_in(batch) if own is None else own)
        # A rank that has nothing left has run along.
        if own is not None:
            self.loss.update(loss, self._task.loss_weight(own))
            self.metrics.update(**outcome)

    def predictions(self, model: nn.Module, batch: OptionBatch) -> list[dict[str, Any]]:
        """Return what there is to tell of each example of this rank's share of a batch, the same on every rank."""
        own = own_share(batch, self.ranks)
        told = self._task.predictions(model, stand_in(batch) if own is None else own)
        return [] if own is None else told

    def compute(self) -> dict[str, Tensor]:
        """Return every metric [] over all batches so far, by name, and begin anew."""
        values: dict[str, Tensor] = {**self.metrics.compute(), "loss": self.loss.compute()}
        self.metrics.reset()
        self.loss.reset()
        return values


@torch.no_grad()
def evaluate(
    task: Task, model: nn.Module, loader: Iterable[OptionBatch], device: torch.device, ranks: Ranks = ALONE
) -> dict[str, float]:
    """Return the loss and the task's metrics of a model over a loader, outside of any Trainer's loop."""
    evaluation = Evaluation(task, ranks).to(device)
    training = model.training
    model.eval()
    for batch in loader:
        evaluation.add(model, batch.to(device))
    model.train(training)
    return {name: float(value) for name, value in evaluation.compute().items()}
