"""Updates: from projected gradients to moved weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.optim.estimators import Closure, Estimate
from zolightning.optim.rules import Rule
from zolightning.perturbation.pieces import subtract_from
from zolightning.perturbation.rounding import wide_dtype
from zolightning.perturbation.steps import Turn

if TYPE_CHECKING:
    from zolightning.optim.zeroth_order import ZerothOrderOptimizer


class Update(Protocol):
    """Moves the weights once a step; where an estimate is not finite it changes nothing."""

    def state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return what is kept for a parameter from step to step, by name, as it is before the first."""

    def check(self, optimizer: ZerothOrderOptimizer) -> None:
        """Raise ConfigurationError if the update cannot work with the optimizer's settings."""

    def __call__(self, optimizer: ZerothOrderOptimizer, estimate: Estimate, closure: Closure) -> Tensor:
        """Move the weights, and return the factors by which `again` would move them so [queries].

        Args:
            optimizer: whose weights.
            estimate: what the step's probes found.
            closure: returns the loss [] of the step's batch.
        """

    def again(self) -> Update | None:
        """Return what repeats this update if it is given its factors as projected gradients, and makes no forward.

        It must keep the same state. None if nothing can: then a run has no journal.
        """


class Linear:
    """theta <- theta - lr ((1/q) sum_i g_i z_i + weight_decay theta), on the selected weights, in one pass; no state.

    MeZO, Malladi et al., arXiv 2305.17333, algorithm 1; ZO-SGD in ZO-Bench, arXiv 2402.11592. With a mask that is made
    anew from the weights as they are, Sparse-MeZO, Liu et al., arXiv 2402.15751, algorithm 1.
    """

    def state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def check(self, optimizer: ZerothOrderOptimizer) -> None:
        """Accept any setting."""

    def __call__(self, optimizer: ZerothOrderOptimizer, estimate: Estimate, closure: Closure) -> Tensor:
        """Move the weights against the estimate."""
        turn, factors = self.turn(optimizer, estimate)
        optimizer.engine.update(*turn)
        return factors

    def turn(self, optimizer: ZerothOrderOptimizer, estimate: Estimate) -> tuple[Turn, Tensor]:
        """Return how an estimate moves the weights, and its factors [queries]."""
        factors = self.factors(estimate)
        steps = optimizer.steps_along(factors / optimizer.num_queries, estimate.finite)
        return Turn(optimizer.places(), steps), factors

    def again(self) -> Update:
        """Return an update that is linear in the factors themselves."""
        return Linear()

    def factors(self, estimate: Estimate) -> Tensor:
        """Return what each direction is multiplied with, zero where the step is to be skipped [queries]."""
        return estimate.projected_gradients


class SignOfProjections(Linear):
    """theta <- theta - lr (1/q) sum_i sign(g_i) z_i: the sign of each scalar, as ZO-Bench's released code has it."""

    @override
    def factors(self, estimate: Estimate) -> Tensor:
        return estimate.projected_gradients.sign()


class Elementwise:
    """theta <- theta - lr (rule(ghat) + weight_decay theta), ghat = (1/q) sum_i g_i z_i, in pieces of bounded size.

    Outside of a mask ghat is zero and theta stays, whatever the rule says; its state goes on there as for any zero.

    Args:
        rule: what is made of ghat, element by element.

    Raises:
        ConfigurationError: if the rule is not hashable, which code that is compiled for it has to be found by.
    """

    def __init__(self, rule: Rule) -> None:
        if type(rule).__hash__ is None:
            raise ConfigurationError(
                f"{type(rule).__name__} cannot be told from its like: make the rule a frozen dataclass of numbers"
            )
        self.rule = rule

    def state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the rule's state, zero, in float32 (float64 for float64 weights), and the number of updates so far."""
        zeros = partial(torch.zeros_like, parameter, dtype=wide_dtype(parameter.dtype), requires_grad=False)
        return {"age": torch.zeros((), dtype=torch.int64, device=parameter.device)} | {
            name: zeros() for name in self.rule.states
        }

    def check(self, optimizer: ZerothOrderOptimizer) -> None:
        """Refuse idle rows that are to be left alone: their moments would have to move on all the same.

        Raises:
            ConfigurationError: with `idle_rows: skip`.
        """
        if optimizer.engine.options.idle_rows == "skip":
            raise ConfigurationError(
                "engine.idle_rows: skip is for updates that are linear in the directions; this one goes element by "
                "element: use engine.idle_rows: update"
            )

    def again(self) -> Update:
        """Return itself."""
        return self

    def __call__(self, optimizer: ZerothOrderOptimizer, estimate: Estimate, closure: Closure) -> Tensor:
        """Move the weights by the rule."""
        groups, alive = optimizer.groups_by_name(), estimate.finite
        shares = estimate.projected_gradients / optimizer.num_queries
        for parameter in optimizer.engine.directions.moving.values():
            # A parameter's own: steps may be skipped, or work on other blocks.
            age = optimizer.state[parameter]["age"]
            age += alive.to(age.device)
        for piece in optimizer.engine.pieces(optimizer.places(), shares):
            group, kept = groups[piece.name], optimizer.state[optimizer.engine.parameters[piece.name]]
            taken = alive.to(piece.weight.device)
            rate = taken.to(piece.estimate.dtype) * group["lr"]
            shrink = rate * group["weight_decay"] if group["weight_decay"] else None
            states = tuple(piece.of(kept[name]) for name in self.rule.states)
            optimizer.engine.run(
                _move,
                piece.weight,
                piece.estimate,
                piece.mask,
                piece.words,
                states,
                self.rule,
                kept["age"],
                taken,
                rate,
                shrink,
            )
        return estimate.projected_gradients


def _move(
    weight: Tensor,
    estimate: Tensor,
    mask: Tensor | None,
    words: Tensor | None,
    states: tuple[Tensor, ...],
    rule: Rule,
    age: Tensor,
    taken: Tensor,
    rate: Tensor,
    shrink: Tensor | None,
) -> None:
    """Move a piece by a rule and put its new state in the place of the old, if the step is taken; a kernel."""
    before = dict(zip(rule.states, states, strict=True))
    move, after = rule(estimate, before, age)
    for name, state in before.items():
        state.copy_(torch.where(taken, after[name], state))
    subtract_from(weight, torch.where(taken, rate * move, 0.0), shrink, mask, words)


class Conservative:
    """theta <- argmin of f over {theta, theta - lr ghat, theta + lr ghat} on the same batch; no state.

    ZO-SGD-Cons in ZO-Bench, arXiv 2402.11592. Candidates are probed like any other point, without moving the weights,
    and compared on the device. Weight decay is decoupled from the choice. Three forwards more a step, or two where the
    estimator has been at theta itself; a candidate whose loss is not finite is not taken.
    """

    def state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def check(self, optimizer: ZerothOrderOptimizer) -> None:
        """Refuse in-place probes.

        Raises:
            ConfigurationError: with `probe: in_place`.
        """
        if optimizer.engine.options.probe == "in_place":
            raise ConfigurationError(
                "a conservative step compares three points after its probes, which engine.probe: in_place would take "
                "six more passes over the weights for: use engine.probe: in_forward"
            )

    def again(self) -> Update:
        """Return an update that is linear in the projected gradients times the choice."""
        return Linear()

    def __call__(self, optimizer: ZerothOrderOptimizer, estimate: Estimate, closure: Closure) -> Tensor:
        """Move the weights to the best of the three."""
        engine, places = optimizer.engine, optimizer.places()
        shares = estimate.projected_gradients / optimizer.num_queries
        losses = [closure() if estimate.here is None else estimate.here]
        for sign in (1.0, -1.0):
            with engine.displaced(places, optimizer.steps_along(sign * shares, estimate.finite)):
                losses.append(closure())
        found = torch.stack([loss.detach().to(estimate.loss) for loss in losses])
        best = torch.where(found.isfinite(), found, torch.inf).argmin()
        choice = torch.where(best == 0, 0.0, torch.where(best == 1, 1.0, -1.0))
        engine.update(places, optimizer.steps_along(choice.to(shares) * shares, estimate.finite))
        return choice.to(shares) * estimate.projected_gradients
