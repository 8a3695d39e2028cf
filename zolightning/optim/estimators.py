"""Estimators: from losses at perturbed weights to projected gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from zolightning.errors import ConfigurationError
from zolightning.perturbation.rounding import wide
from zolightning.perturbation.tangents import parts_of

Closure = Callable[[], Tensor]


class Prober(Protocol):
    """What an estimator asks of an optimizer."""

    @property
    def eps(self) -> float:
        """The smoothing parameter."""

    def probe(self, query: int, scale: float) -> AbstractContextManager[None]:
        """Let the forwards within see theta + scale z_query."""

    def differentiate(self, query: int) -> AbstractContextManager[None]:
        """Let the losses of forwards within have the tangent <grad f(theta), z_query>."""


# Of prober, closure and number of queries.
Estimator = Callable[[Prober, Closure, int], "Estimate"]


@dataclass(frozen=True)
class Estimate:
    """What the probes of one step found. All tensors stay on the loss's device; reading one waits for the device.

    Args:
        loss: the loss at the unperturbed weights, to second order in eps: the mean over the probes [].
        projected_gradients: one a query; zero where the step is to be skipped [queries].
        finite: whether every probe's loss was finite; if not, the step must change nothing [].
        here: the loss at the unperturbed weights itself, where a forward was there [].
    """

    loss: Tensor
    projected_gradients: Tensor
    finite: Tensor
    here: Tensor | None = None

    def deferred(self, finite: Tensor) -> Estimate:
        """Return the estimate for an update after others, taken only if all of theirs were finite, bool []."""
        # By then the loss at the weights is another.
        return Estimate(self.loss, torch.where(finite, self.projected_gradients, 0.0), finite)

    def noted(self, factors: Tensor) -> Tensor:
        """Return an update's factors as a `Record` has them: NaN where the step is skipped [factors]."""
        return torch.where(self.finite, factors, torch.nan)


def two_sided(prober: Prober, closure: Closure, num_queries: int) -> Estimate:
    """Simultaneous perturbation (SPSA): g_i = (f(theta + eps z_i) - f(theta - eps z_i)) / (2 eps).

    Spall 1992; MeZO, arXiv 2305.17333, definition 1 and algorithm 1. E[g z] is the gradient up to O(eps^2).

    Args:
        prober: perturbs the weights.
        closure: returns the loss [].
        num_queries: directions; each takes two forwards.
    """
    plus, minus = [], []
    for query in range(num_queries):
        with prober.probe(query, prober.eps):
            plus.append(wide(closure().detach()))
        with prober.probe(query, -prober.eps):
            minus.append(wide(closure().detach()))
    losses = torch.stack([torch.stack(plus), torch.stack(minus)])
    projected, finite = _guarded((losses[0] - losses[1]) / (2 * prober.eps))
    return Estimate(losses.mean(), projected, finite)


def one_sided(prober: Prober, closure: Closure, num_queries: int) -> Estimate:
    """Forward differences: g_i = (f(theta + eps z_i) - f(theta)) / eps.

    The randomised gradient estimator of ZO-Bench, arXiv 2402.11592, with forward differences. It takes q + 1 forwards
    instead of 2q; E[g z] is the gradient up to O(eps^2), because the curvature along z is even in it; it adds to the
    variance, where a two-sided difference cancels it.

    Args:
        prober: perturbs the weights.
        closure: returns the loss [].
        num_queries: directions; each takes one forward, and all together one more.
    """
    here = wide(closure().detach())
    ahead = []
    for query in range(num_queries):
        with prober.probe(query, prober.eps):
            ahead.append(wide(closure().detach()))
    projected, finite = _guarded((torch.stack(ahead) - here) / prober.eps)
    return Estimate(here, projected, finite, here)


def forward_mode(prober: Prober, closure: Closure, num_queries: int) -> Estimate:
    """Directional derivatives by forward-mode differentiation: g_i = <grad f(theta), z_i>.

    Forward gradient, Baydin et al., arXiv 2202.08587. No smoothing: E[g z] is the gradient itself. A forward with its
    tangents for each direction.

    Args:
        prober: gives the weights their tangents.
        closure: returns the loss [].
        num_queries: directions.

    Raises:
        ConfigurationError: if the loss has no tangent.
    """
    losses, slopes = [], []
    for query in range(num_queries):
        with prober.differentiate(query):
            loss, slope = parts_of(wide(closure()))
            if slope is None:
                raise ConfigurationError(
                    "the closure's loss does not depend on the weights in a way that can be differentiated: use a "
                    "strategy that probes, such as ZOSGD"
                )
            losses.append(loss)
            slopes.append(slope)
    # A loss that is not finite may have a slope that is.
    projected, finite = _guarded(torch.stack(slopes) + 0.0 * torch.stack(losses))
    return Estimate(torch.stack(losses).mean(), projected, finite, losses[0])


def joined(estimates: Sequence[Estimate]) -> Estimate:
    """Return what the estimates of a step's parts say together: the mean loss, all projected gradients."""
    return Estimate(
        torch.stack([estimate.loss for estimate in estimates]).mean(),
        torch.cat([estimate.projected_gradients for estimate in estimates]),
        torch.stack([estimate.finite for estimate in estimates]).all(),
    )


def _guarded(projected: Tensor) -> tuple[Tensor, Tensor]:
    # A difference of losses is finite only where both are.
    finite = torch.isfinite(projected).all()
    return torch.where(finite, projected, 0.0), finite


Sides = Literal["two_sided", "one_sided"]

ESTIMATORS: dict[Sides, Estimator] = {"two_sided": two_sided, "one_sided": one_sided}
