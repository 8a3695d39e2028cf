"""The closure that a strategy is given: a batch's loss, in micro-batches where the batch does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from zolightning.models.batch import OptionBatch
    from zolightning.tasks.base import Task


class BatchLoss:
    """Returns the loss [] of one batch, always of the same data, however often it is called.

    Losses of micro-batches are averaged exactly as one large batch would be. Where gradients are on and there is more
    than one micro-batch, each is sent backward at once, so that only one graph lives at a time, and the total comes
    back without a graph.

    Args:
        task: computes the loss.
        model: the language model.
        batch: the batch.
        micro_batch_size: examples a forward, or None for the whole batch.
    """

    def __init__(self, task: Task, model: nn.Module, batch: OptionBatch, micro_batch_size: int | None) -> None:
        self._task = task
        self._model = model
        self._parts = [batch] if micro_batch_size is None else batch.split(micro_batch_size)
        weights = [task.loss_weight(part) for part in self._parts]
        self._shares = [weight / sum(weights) for weight in weights]
        self.calls = 0

    def __call__(self) -> Tensor:
        """Run the forwards."""
        self.calls += 1
        if len(self._parts) == 1:
            return self._task.loss(self._model, self._parts[0])
        losses = []
        for share, part in zip(self._shares, self._parts, strict=True):
            loss = share * self._task.loss(self._model, part)
            if torch.is_grad_enabled() and loss.requires_grad:
                torch.autograd.backward(loss)
                loss = loss.detach()
            # One that is differentiated forward keeps its tangent.
            losses.append(loss)
        return torch.stack(losses).sum()
