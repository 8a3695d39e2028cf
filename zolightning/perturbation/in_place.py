"""MeZO's own walk: the weights themselves are moved to each probe, and from the last one back with the update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from zolightning.perturbation.directions import Directions
from zolightning.perturbation.noise import Stream
from zolightning.perturbation.steps import Step, Turn


class InPlace:
    """Moves the weights along directions and remembers how far they are from where they belong.

    Every move rounds to the weights' dtype, so that they do not come back exactly: `EngineOptions` says by how much.

    Args:
        directions: what moves the weights.
    """

    def __init__(self, directions: Directions) -> None:
        self._directions = directions
        self._at: tuple[Stream, float] | None = None

    def move_to(self, place: Stream, scale: float) -> None:
        """Move the weights to theta + scale z, in one pass from wherever they are."""
        if self._at is None:
            self._subtract([place], [-scale])
        elif self._at[0] == place:
            self._subtract([place], [self._at[1] - scale])
        else:
            self._subtract([self._at[0], place], [self._at[1], -scale])
        self._at = (place, scale)

    def restore(self) -> None:
        """Move the weights back, if they are away."""
        if self._at is not None:
            self._subtract([self._at[0]], [self._at[1]])
            self._at = None

    def homeward(
        self, places: Sequence[Stream], steps: Mapping[str, Step]
    ) -> tuple[Sequence[Stream], Mapping[str, Step]]:
        """Return places and steps that also take the weights back to where they belong; then call `arrived`."""
        if self._at is None:
            return places, steps
        place, scale = self._at
        if place not in places:
            places = [*places, place]
        back = self._coefficients([scale if one == place else 0.0 for one in places])
        merged = {id(step): replace(step, coefficients=_plus(step.coefficients, back)) for step in steps.values()}
        return places, {name: merged[id(step)] for name, step in steps.items()}

    def arrived(self) -> None:
        """Note that the weights are where they belong."""
        self._at = None

    def _subtract(self, places: list[Stream], coefficients: list[float]) -> None:
        step = Step(self._coefficients(coefficients), None)
        self._directions.subtract([Turn(places, dict.fromkeys(self._directions.moving, step))], "nearest")

    def _coefficients(self, values: list[float]) -> Tensor:
        device = next(iter(self._directions.parameters.values())).device
        # Filled in on the device: a copy from the host would be waited for.
        return torch.stack([torch.full((), value, dtype=torch.float64, device=device) for value in values])


def _plus(coefficients: Tensor, back: Tensor) -> Tensor:
    missing = back.numel() - coefficients.numel()
    # In float64: rounded to the loss's float32, the way back would be another than the way there.
    return torch.cat([coefficients, coefficients.new_zeros(missing)]).double() + back
