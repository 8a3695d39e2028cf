"""One optimizer of two: backpropagation for a part of the parameters, probes for the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.optim.estimators import Closure
from zolightning.optim.first_order import FirstOrderOptimizer
from zolightning.optim.split import training
from zolightning.optim.zeroth_order import ZerothOrderOptimizer


class HybridOptimizer(Optimizer):
    """Moves two parts of a model in one step, both from the same weights.

    The gradient is taken first, while the other part is frozen, so that nothing is kept of what comes before the first
    parameter that has one. A checkpoint holds both states as one optimizer's.

    Args:
        model: the model.
        zeroth: the optimizer of the probed part.
        first: the optimizer of the other.

    Raises:
        ConfigurationError: if the weights are sharded over processes, whose checkpoints know one optimizer.
    """

    def __init__(self, model: nn.Module, zeroth: ZerothOrderOptimizer, first: FirstOrderOptimizer) -> None:
        if zeroth.engine.sharded:
            raise ConfigurationError(
                "HybridZOFO keeps its state in two optimizers, which a checkpoint of sharded weights cannot hold: set "
                "trainer.strategy to zo_ddp, or model.strategy to another"
            )
        super().__init__([*zeroth.param_groups, *first.param_groups], {})
        self.zeroth = zeroth
        self.first = first
        self._model = model
        self._probed, self._trained = (
            {parameter for group in part.param_groups for parameter in group["params"]} for part in (zeroth, first)
        )

    @override
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Backpropagate, probe, and move both parts; each is left alone where its own losses are not finite.

        Args:
            closure: returns the loss [] of the step's batch, with its graph where gradients are on.

        Returns:
            The loss at the weights before the step [], on its device.

        Raises:
            ConfigurationError: if no closure is given.
        """
        if closure is None:
            raise ConfigurationError("a hybrid step needs a closure that returns the loss: optimizer.step(closure)")
        with training(self._model, self._trained):
            loss, finite = self.first.backpropagate(closure)
        with training(self._model, self._probed):
            self.zeroth.step(closure)
        self.first.move(finite)
        return loss

    @property
    def skipped(self) -> Tensor:
        """The larger counts of skipped steps of the two, int64 [3]; see `SkipGuard`."""
        counts = self.zeroth.guard.counts
        return torch.maximum(counts, self.first.guard.counts.to(counts.device))

    @override
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for parameter in self._trained:
            parameter.grad = None

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return both states, with the parameters of the second numbered on from those of the first."""
        one, other, offset = self.zeroth.state_dict(), self.first.state_dict(), len(self._probed)
        state = {number + offset: kept for number, kept in other["state"].items()}
        groups = [_renumbered(group, offset) for group in other["param_groups"]]
        return {"state": {**one["state"], **state}, "param_groups": [*one["param_groups"], *groups]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both states.

        Raises:
            ConfigurationError: if the parts are not those of the checkpoint.
        """
        state, groups = state_dict["state"], state_dict["param_groups"]
        offset, cut = len(self._probed), len(self.zeroth.param_groups)
        one = {number: kept for number, kept in state.items() if number < offset}
        other = {number - offset: kept for number, kept in state.items() if number >= offset}
        self.zeroth.load_state_dict({"state": one, "param_groups": groups[:cut]})
        if len(groups) - cut != len(self.first.param_groups):
            raise ConfigurationError(
                f"the checkpoint has {len(groups)} groups of parameters, this optimizer {len(self.param_groups)}: "
                "resume with the first_order_layers that the run began with"
            )
        own = [_renumbered(group, -offset) for group in groups[cut:]]
        self.first.load_state_dict({"state": other, "param_groups": own})
        # Loading makes new groups.
        self.param_groups = [*self.zeroth.param_groups, *self.first.param_groups]


def _renumbered(group: dict[str, Any], offset: int) -> dict[str, Any]:
    return {**group, "params": [number + offset for number in group["params"]]}
