"""How a step is taken: an estimator and an update, on the whole model or block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from zolightning.optim.blocks import Block, Order
from zolightning.optim.estimators import Closure, Estimate, Estimator, joined
from zolightning.optim.updates import Update
from zolightning.phases import phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zolightning.optim.zeroth_order import ZerothOrderOptimizer


class Method(NamedTuple):
    """How a step is taken.

    Args:
        estimator: makes projected gradients of losses.
        update: moves the weights by them.
    """

    estimator: Estimator
    update: Update

    def step(self, optimizer: ZerothOrderOptimizer, closure: Closure) -> tuple[Estimate, Tensor]:
        """Probe and move all that moves; return what was found, and the factors of a `Record` [queries]."""
        estimate = self._probe(optimizer, closure)
        return estimate, self._move(optimizer, estimate, closure)

    def step_blocks(
        self, optimizer: ZerothOrderOptimizer, closure: Closure, blocks: Sequence[Block], order: Order
    ) -> tuple[Estimate, Tensor]:
        """Step block by block; each has directions of its own, since its parameters have names of their own."""
        found: list[Estimate] = []
        factors: list[Tensor] = []
        for block in blocks:
            with optimizer.engine.only(block):
                found.append(self._probe(optimizer, closure))
                if order == "sequential":
                    factors.append(self._move(optimizer, found[-1], closure))
        together = joined(found)
        if order == "joint":
            for block, estimate in zip(blocks, found, strict=True):
                with optimizer.engine.only(block):
                    factors.append(self._move(optimizer, estimate.deferred(together.finite), closure))
        return together, torch.cat(factors)

    def _probe(self, optimizer: ZerothOrderOptimizer, closure: Closure) -> Estimate:
        with phase("probe"):
            return self.estimator(optimizer, closure, optimizer.num_queries)

    def _move(self, optimizer: ZerothOrderOptimizer, estimate: Estimate, closure: Closure) -> Tensor:
        with phase("update"):
            # What an update asks of the closure must be the same on all ranks.
            factors = self.update(optimizer, estimate, lambda: optimizer.ranks.mean(closure()))
        return estimate.noted(factors)
