"""One probe: what the modules of a model see of theta moved along directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd, prod

import torch
from torch import Tensor
from torch.nn import functional

from zolightning.perturbation.directions import Directions
from zolightning.perturbation.lazy import LazyWeight
from zolightning.perturbation.motion import Motion
from zolightning.perturbation.noise import Stream, unit
from zolightning.perturbation.rounding import wide, wide_dtype
from zolightning.perturbation.scratch import Scratch
from zolightning.perturbation.shards import Part

# Of a matrix no more than this is perturbed at once.
SCRATCH_BYTES = 64 << 20

Visit = Callable[[str, Tensor | None], None]
Coefficients = Callable[[str, Tensor], Tensor]


class Probe:
    """Gives stand-ins for weights that are moved along directions.

    Args:
        directions: what moves the weights.
        places: the step and query of each direction.
        coefficients: what is subtracted of each direction, for a parameter's name and weight: in the dtype of the
            weight's arithmetic, on its device [queries].
        scratch: where perturbed weights are written.
        visit: is told which parameter is used, and which of its rows [n], or None for all.
    """

    def __init__(
        self,
        directions: Directions,
        places: Sequence[Stream],
        coefficients: Coefficients,
        scratch: Scratch,
        visit: Visit,
    ) -> None:
        self.directions = directions
        self.places = places
        self.coefficients = coefficients
        self.scratch = scratch
        self.visit = visit

    def stand_in(self, name: str, weight: Tensor) -> Tensor:
        """Return what a module sees in the place of a weight."""
        if not self.directions.is_small(name):
            return LazyWeight.around(weight, _Source(self, name, weight))
        self.visit(name, None)
        part = Part.all_of(weight.view(-1))
        moved = wide(part.flat)
        for place, coefficient in zip(self.places, self.coefficients(name, weight), strict=True):
            moved = moved - coefficient * self.directions.small(name, part, place)
        return moved.to(weight.dtype).view(weight.shape)

    def motion(self, name: str, weight: Tensor) -> Motion:
        """Return what is subtracted from a weight."""
        return self.directions.motion(name, self.places, self.coefficients(name, weight))


def along(directions: Directions, place: Stream, scale: float) -> Coefficients:
    """Return the coefficients of a probe at theta + scale z, made once for each device and dtype."""
    made: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def coefficients(_name: str, weight: Tensor) -> Tensor:
        kind = (weight.device, wide_dtype(weight.dtype))
        if kind not in made:
            made[kind] = directions.scaled(place, torch.full((1,), -scale, dtype=kind[1], device=kind[0]))
        return made[kind]

    return coefficients


@dataclass
class _Source:
    """Makes one perturbed weight, or parts of it, for the operation that reads it."""

    probe: Probe
    name: str
    weight: Tensor
    _whole: Tensor | None = None

    def whole(self) -> Tensor:
        if self._whole is None:
            self.probe.visit(self.name, None)
            buffer = self.probe.scratch.take(self.weight.numel(), self.weight)
            self._fill(buffer, 0)
            self._whole = buffer.view(self.weight.shape)
        return self._whole

    def rows(self, numbers: Tensor) -> Tensor:
        # Indices of 32 bits would wrap where they become numbers of elements.
        numbers = numbers.to(torch.int64)
        self.probe.visit(self.name, numbers)
        chosen = self.weight.flatten(1)[numbers]
        self.probe.directions.move_rows(chosen, numbers, self.probe.motion(self.name, self.weight))
        return chosen

    def matmul(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self.weight.shape
        self.probe.visit(self.name, None)
        chunks = chunks_of_rows(self.weight)
        if len(chunks) == 1:
            with self.probe.scratch.borrow(self.weight.numel(), self.weight) as buffer:
                self._fill(buffer, 0)
                return functional.linear(inputs, buffer.view(rows, columns), bias)
        # Autocast does not reach a product that is written into its place.
        parts: list[Tensor] | None = [] if torch.is_autocast_enabled(inputs.device.type) else None
        out = inputs.new_empty(prod(inputs.shape[:-1]), rows if parts is None else 0)
        flat = inputs.reshape(-1, columns)
        for first, last in chunks:
            with self.probe.scratch.borrow((last - first) * columns, self.weight) as buffer:
                self._fill(buffer, first * columns)
                part = buffer.view(last - first, columns)
                offset = None if bias is None else bias[first:last]
                if parts is not None:
                    parts.append(functional.linear(flat, part, offset))
                elif offset is None:
                    torch.mm(flat, part.t(), out=out[:, first:last])
                else:
                    torch.addmm(offset, flat, part.t(), out=out[:, first:last])
        return (torch.cat(parts, 1) if parts else out).view(*inputs.shape[:-1], rows)

    def _fill(self, buffer: Tensor, first: int) -> None:
        weight = self.weight.reshape(-1)[first : first + buffer.numel()]
        self.probe.directions.fill(buffer, weight, self.probe.motion(self.name, weight), first)


def chunks_of_rows(weight: Tensor) -> list[tuple[int, int]]:
    """Return from which row to which each part of a matrix reaches that is perturbed at once."""
    at_once = rows_at_once(weight.shape[1], weight.element_size())
    return [(first, min(first + at_once, len(weight))) for first in range(0, len(weight), at_once)]


def rows_at_once(columns: int, element_size: int) -> int:
    """Return how many rows of a matrix fit in the scratch, a number that begins each chunk at a whole unit of noise."""
    whole = unit(1) // gcd(unit(1), columns)
    return max(1, SCRATCH_BYTES // (columns * element_size * whole)) * whole
