"""The closure that a strategy is given: a batch's loss, in micro-batches where the batch does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from zolightning.optim.ranks import ALONE, Ranks
from zolightning.shares import own_share, stand_in

if TYPE_CHECKING:
    from zolightning.models.batch import OptionBatch


class Objective(Protocol):
    """What a closure needs to know of a task."""

    def loss(self, model: nn.Module, batch: OptionBatch) -> Tensor:
        """Return the loss [] of a batch, the mean over what `loss_weight` counts."""

    def loss_weight(self, batch: OptionBatch) -> float:
        """Return how much a batch counts in a mean of losses."""


class BatchLoss:
    """Returns the loss [] of one batch, always of the same data, however often it is called.

    Losses of micro-batches are averaged exactly as one large batch would be, and so are those of several ranks, of
    which each computes its share of the batch. Where gradients are on and there is more than one part, each is sent
    backward at once, so that only one graph lives at a time, and the total comes back without a graph; the gradients
    are then those of the whole batch on every rank.

    Every rank runs as many forwards as any other. One that has nothing left runs the batch's first example with the
    weight 0.

    Args:
        task: computes the loss; a Task does.
        model: the language model.
        batch: the batch, the same on every rank.
        micro_batch_size: examples a forward, or None for all of them.
        ranks: those that share the batch.
        average: whether to return the batch's loss; if not, that of the rank's own share, scaled so that its mean over
            ranks is the batch's.
    """

    def __init__(
        self,
        task: Objective,
        model: nn.Module,
        batch: OptionBatch,
        micro_batch_size: int | None,
        ranks: Ranks = ALONE,
        average: bool = True,
    ) -> None:
        self._task = task
        self._model = model
        self._ranks = ranks
        self._average = average
        own, idle = _parts(batch, micro_batch_size, ranks)
        self._parts = own + idle
        weights = [task.loss_weight(part) for part in own]
        total = sum(weights) if ranks.size == 1 else task.loss_weight(batch)
        self._shares = [weight * ranks.size / total for weight in weights] + [0.0] * len(idle)
        self.calls = 0

    def __call__(self) -> Tensor:
        """Run the forwards."""
        self.calls += 1
        if len(self._parts) == self._ranks.size == 1:
            return self._task.loss(self._model, self._parts[0])
        losses, backward = [], False
        for share, part in zip(self._shares, self._parts, strict=True):
            loss = share * self._task.loss(self._model, part)
            if torch.is_grad_enabled() and loss.requires_grad:
                torch.autograd.backward(loss)
                loss, backward = loss.detach(), True
            # One that is differentiated forward keeps its tangent.
            losses.append(loss)
        if backward:
            self._ranks.average_gradients(self._model.parameters())
        total = torch.stack(losses).sum()
        return self._ranks.mean(total) if self._average else total


def _parts(batch: OptionBatch, size: int | None, ranks: Ranks) -> tuple[list[OptionBatch], list[OptionBatch]]:
    """Return the micro-batches of a rank's share, and stand-ins for those that other ranks have more."""
    most = -(-batch.num_examples // ranks.size)
    size = most if size is None else size
    share = own_share(batch, ranks)
    own = [] if share is None else share.split(size)
    return own, [stand_in(batch)] * (-(-most // size) - len(own))
