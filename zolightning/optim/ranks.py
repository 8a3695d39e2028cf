"""The processes that train together, and what they tell each other: scalars, and gradients where a method has some."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zolightning.perturbation.shards import is_sharded
from zolightning.perturbation.tangents import dual, parts_of


@dataclass(frozen=True)
class Ranks:
    """A process among those that train together; by default it is alone.

    Scalars are gathered and then summed by every rank in the same order, so that all have the same bits, whatever
    algorithm the backend takes. Nothing but `average_gradients` waits for the device.

    Args:
        rank: its number, from 0.
        size: how many there are; with more than one, torch.distributed has a process group of as many.
    """

    rank: int = 0
    size: int = 1

    def bounds(self, count: int) -> tuple[int, int]:
        """Return the first and the end of this rank's share of so many things; shares differ by one at most."""
        return -(-count * self.rank // self.size), -(-count * (self.rank + 1) // self.size)

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all ranks, in their order [size, ...]."""
        if self.size == 1:
            return values.unsqueeze(0)
        found = values.new_empty((self.size, *values.shape))
        # Into its rows.
        dist.all_gather(list(found.unbind()), values.contiguous())
        return found

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean [] over ranks of a value [], with its tangent if it has one, and without its graph."""
        if self.size == 1:
            return value
        primal, tangent = parts_of(value)
        if tangent is None:
            return self.gather(primal).mean()
        return dual(*self.gather(torch.stack([primal, tangent])).mean(0).unbind())

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put in the place of each gradient its mean over ranks, in which a gradient that is missing counts as zero.

        One gradient after the other, in no buffer; a parameter that has none on any rank is left without. Gradients of
        sharded weights are left as they are: the backward has averaged them.
        """
        if self.size == 1:
            return
        trained = [weight for weight in parameters if weight.requires_grad and not is_sharded(weight)]
        if not trained:
            return
        mine = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.uint8)
        anywhere = self.gather(mine.to(trained[0].device)).any(0).tolist()
        gradients = [_gradient(parameter) for parameter, there in zip(trained, anywhere, strict=True) if there]
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            assert work is not None, "this rank belongs to the group"
            work.wait()
        for gradient in gradients:
            gradient.div_(self.size)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


ALONE = Ranks()
