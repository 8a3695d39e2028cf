"""A step as its scalars: what was found, and how it is taken again without a forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zolightning.optim.estimators import Closure, Estimate, Estimator, Prober


@dataclass(frozen=True)
class Record:
    """What a step did: with the run's seed and its settings this determines how every weight moved.

    Args:
        step: the number of the step, from 0 on.
        lr: the learning rate.
        loss: as the step returned it.
        factors: what each direction was multiplied with: the projected gradients, or what the method made of them, of
            all blocks one after another; NaN where a block, or the step, was skipped because a loss was not finite.
        forwards: how many forwards the step took.
    """

    step: int
    lr: float
    loss: float
    factors: tuple[float, ...]
    forwards: int = 0


class Taken(NamedTuple):
    """A step's scalars before anybody has read them: loss [] and factors [n] are on the losses' device."""

    step: int
    lr: float
    loss: Tensor
    factors: Tensor


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
