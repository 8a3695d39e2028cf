"""Rules: what is made of an estimated gradient, element by element, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from zolightning.errors import ConfigurationError


class Rule(Protocol):
    """A function from an estimate and the state to a move and the state after it, in torch's operations.

    It is compiled, once for all rules that are equal: a rule is a value, as a frozen dataclass is.

    Attributes:
        states: names of the tensors kept for every weight.
    """

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the tensors kept for every weight, which start at zero."""

    def __call__(
        self, gradient: Tensor, states: Mapping[str, Tensor], age: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return what the learning rate is multiplied with, and the new state; nothing is changed in place.

        Args:
            gradient: the estimate [n].
            states: the state by name [n].
            age: the number of this update of the parameter, from 1 on; skipped steps are none, int64 [].
        """


@dataclass(frozen=True)
class Sign:
    """sign(g): signSGD on zeroth-order estimates, Liu et al., "signSGD via zeroth-order oracle", ICLR 2019.

    Example:
        >>> Sign()(torch.tensor([0.3, -2.0, 0.0]), {}, torch.tensor(1))[0]
        tensor([ 1., -1.,  0.])
    """

    states: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, gradient: Tensor, states: Mapping[str, Tensor], age: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the signs."""
        return gradient.sign(), {}


@dataclass(frozen=True)
class Momentum:
    """m <- beta m + g, and m is the move: heavy-ball momentum without dampening, as torch.optim.SGD has it.

    Args:
        beta: decay of the running sum, in [0, 1).

    Raises:
        ConfigurationError: if beta lies outside [0, 1).
    """

    beta: float
    states: ClassVar[tuple[str, ...]] = ("momentum",)

    def __post_init__(self) -> None:
        """Check the number."""
        if not 0 <= self.beta < 1:
            raise ConfigurationError(f"momentum must lie in [0, 1), got {self.beta}")

    def __call__(
        self, gradient: Tensor, states: Mapping[str, Tensor], age: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the running sum, twice."""
        momentum = self.beta * states["momentum"] + gradient
        return momentum, {"momentum": momentum}


@dataclass(frozen=True)
class Adam:
    """m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; the move is mhat / (sqrt(vhat) + adam_eps).

    Kingma and Ba, arXiv 1412.6980, algorithm 1, with mhat = m / (1 - b1^t) and vhat = v / (1 - b2^t).

    Args:
        betas: decay of the first and the second moment, each in [0, 1).
        adam_eps: added to the root of the second moment.

    Raises:
        ConfigurationError: if a beta lies outside [0, 1), or adam_eps is negative.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    states: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")

    def __post_init__(self) -> None:
        """Check the numbers, and take a list, as YAML has it, for what it is."""
        object.__setattr__(self, "betas", tuple(self.betas))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigurationError(f"betas must lie in [0, 1), got {self.betas}")
        if not self.adam_eps >= 0:
            raise ConfigurationError(f"adam_eps must not be negative, got {self.adam_eps}")

    def __call__(
        self, gradient: Tensor, states: Mapping[str, Tensor], age: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the move and both moments."""
        first = torch.lerp(gradient, states["first_moment"], self.betas[0])
        second = torch.lerp(gradient.square(), states["second_moment"], self.betas[1])
        # In float64: a beta of 0.999 leaves float32 four digits of 1 - beta^t.
        corrections = [(1 - beta ** age.double()).to(gradient.dtype) for beta in self.betas]
        move = (first / corrections[0]) / ((second / corrections[1]).sqrt() + self.adam_eps)
        return move, {"first_moment": first, "second_moment": second}
