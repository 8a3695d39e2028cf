"""How far parameters move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from zolightning.perturbation.noise import Stream
from zolightning.perturbation.rounding import wide_dtype


@dataclass(frozen=True)
class Step:
    """How far a parameter moves.

    Args:
        coefficients: learning rate times each query's share of the projected gradient, float32 or float64 [queries].
        decay: learning rate times weight decay [], or None for no decay.
    """

    coefficients: Tensor
    decay: Tensor | None

    def to(self, weight: Tensor) -> Step:
        """Return the step on a weight's device, in the dtype of its arithmetic."""
        place = (weight.device, wide_dtype(weight.dtype))
        return Step(self.coefficients.to(*place), None if self.decay is None else self.decay.to(*place))


class Turn(NamedTuple):
    """An update of all that moves; several follow each other.

    Args:
        places: the step and query of each direction.
        steps: each parameter's coefficients and decay, by name.
    """

    places: Sequence[Stream]
    steps: Mapping[str, Step]
