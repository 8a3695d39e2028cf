"""Weights with a tangent: what the modules of a model see while a loss is differentiated forward along a direction.

No tangent of a weight outlives the operation that reads it, so that all of them together take no memory: of a matrix
the rows in use, of an embedding those that are looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from zolightning.perturbation.directions import Directions
from zolightning.perturbation.lazy import LazyWeight
from zolightning.perturbation.motion import Motion
from zolightning.perturbation.noise import Stream
from zolightning.perturbation.probe import Visit, along, chunks_of_rows
from zolightning.perturbation.shards import Part

# Without types in torch.
_forward_ad = cast("Any", forward_ad)


class Tangents:
    """Gives stand-ins for weights whose tangent is a direction; used within `torch.autograd.forward_ad.dual_level`.

    Args:
        directions: what directions are made of.
        place: the step and query.
        visit: is told which parameter is used, and which of its rows [n], or None for all.
    """

    def __init__(self, directions: Directions, place: Stream, visit: Visit) -> None:
        self.directions = directions
        self.place = place
        self.visit = visit
        # A motion is subtracted; here it is summed.
        self._coefficients = along(directions, place, -1.0)

    def stand_in(self, name: str, weight: Tensor) -> Tensor:
        """Return what a module sees in the place of a weight."""
        if not self.directions.is_small(name):
            return LazyWeight.around(weight, _Source(self, name, weight))
        self.visit(name, None)
        tangent = self._coefficients(name, weight) * self.directions.small(
            name, Part.all_of(weight.view(-1)), self.place
        )
        return dual(weight, tangent.to(weight.dtype).view(weight.shape))

    def motion(self, name: str, weight: Tensor) -> Motion:
        """Return the direction of a weight."""
        return self.directions.motion(name, [self.place], self._coefficients(name, weight))

    def enter(self) -> None:
        """Note nothing: tangents lie in memory of their own."""

    def leave(self, output: Any) -> Any:
        """Return a module's output as it is."""
        return output


@dataclass
class _Source:
    """Makes one weight with its tangent, or parts of it, for the operation that reads it."""

    tangents: Tangents
    name: str
    weight: Tensor

    def whole(self) -> Tensor:
        self.tangents.visit(self.name, None)
        return self._part(0, self.weight.numel()).view(self.weight.shape)

    def rows(self, numbers: Tensor) -> Tensor:
        numbers = numbers.to(torch.int64)
        self.tangents.visit(self.name, numbers)
        chosen = self.weight.flatten(1)[numbers]
        motion = self.tangents.motion(self.name, self.weight)
        return dual(chosen, self.tangents.directions.rows_of(chosen, numbers, motion))

    def matmul(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self.weight.shape
        self.tangents.visit(self.name, None)
        flat = inputs.reshape(-1, columns)
        parts = []
        for first, last in chunks_of_rows(self.weight):
            part = self._part(first * columns, last * columns).view(last - first, columns)
            parts.append(functional.linear(flat, part, None if bias is None else bias[first:last]))
        out = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return out.view(*inputs.shape[:-1], rows)

    def _part(self, first: int, last: int) -> Tensor:
        weight = self.weight.reshape(-1)[first:last]
        if weight.numel() < self.weight.numel():
            # To a view torch gives a tangent as large as what it is a view of.
            weight = weight.clone()
        tangent = torch.empty_like(weight)
        self.tangents.directions.sum_into(tangent, weight, self.tangents.motion(self.name, weight), first)
        return dual(weight, tangent)


def dual(value: Tensor, tangent: Tensor) -> Tensor:
    """Return a tensor with a tangent of its shape."""
    made: Tensor = _forward_ad.make_dual(value, tangent)
    return made


def parts_of(value: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return a tensor without its tangent, and the tangent, or None if it has none."""
    primal, tangent = _forward_ad.unpack_dual(value)
    return primal.detach(), None if tangent is None else tangent.detach()
