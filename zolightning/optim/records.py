"""A step as its scalars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


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
