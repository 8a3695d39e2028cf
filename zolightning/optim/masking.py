"""The masks of a sparse method: picked when they are due, kept in the optimizer's state, and restored from it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zolightning.errors import ConfigurationError
from zolightning.optim.estimators import Closure
from zolightning.optim.sparsity import Sparsity
from zolightning.perturbation.bits import empty_bits
from zolightning.perturbation.masks import Selection
from zolightning.perturbation.noise import Lane, Stream

if TYPE_CHECKING:
    from zolightning.optim.zeroth_order import ZerothOrderOptimizer

log = logging.getLogger(__name__)

# What a mask adds to the state of a parameter.
_KEYS = ("threshold", "cut", "bits")


def forget(optimizer: ZerothOrderOptimizer) -> None:
    """Drop all masks, and what is kept of them."""
    optimizer.engine.selections.clear()
    for state in optimizer.state.values():
        for key in _KEYS:
            state.pop(key, None)


class Masking:
    """Picks the masks of an optimizer's parameters.

    Args:
        optimizer: whose parameters; the masks go to its engine, and what determines them to its state.
        sparsity: the rule.

    Raises:
        ConfigurationError: with `snip`, if weights are sharded.
    """

    def __init__(self, optimizer: ZerothOrderOptimizer, sparsity: Sparsity) -> None:
        self._optimizer = optimizer
        self._sparsity = sparsity
        if sparsity.score == "snip" and optimizer.engine.sharded:
            raise ConfigurationError(
                "mask: snip keeps a bit for every weight of the model, and the weights are sharded over several "
                "processes: use mask: random or magnitude"
            )
        optimizer.param_groups[0]["picked"] = None
        if sparsity.score != "snip":
            self._pick(optimizer.step_count)
            return
        # Until the first step has a gradient; a state must be there from the start to be saved in shards.
        for parameter in self._covered().values():
            numbers = torch.zeros(2, dtype=torch.int64, device=parameter.device)
            bits = empty_bits(parameter.numel(), parameter.device)
            optimizer.state[parameter].update(threshold=numbers[0], cut=numbers[1], bits=bits)

    def pick_if_due(self, closure: Closure) -> None:
        """Pick all masks anew where a step begins that asks for it.

        Args:
            closure: returns the loss [] of the step's batch; `snip` takes its gradient.
        """
        step = self._optimizer.step_count
        if self._sparsity.begun(step) != self._picked:
            self._pick(step, closure)

    def restore(self) -> None:
        """Take up the masks that a loaded state holds."""
        selections = self._optimizer.engine.selections
        selections.clear()
        for name, parameter in self._covered().items():
            state = self._optimizer.state[parameter]
            if self._picked is not None and "threshold" in state:
                stream, bits = self._stream(name, self._picked), state.get("bits")
                selections[name] = Selection(self._sparsity.score, state["threshold"], state["cut"], stream, bits)

    def _pick(self, step: int, closure: Closure | None = None) -> None:
        """Find every mask from the weights, and for `snip` the gradient, as they are now."""
        gradients: dict[str, Tensor] | None = None
        if closure is not None and self._sparsity.score == "snip":
            gradients = self._gradients(closure)
            if gradients is None and self._picked is not None:
                log.warning("step %d: the gradient is zero or not finite, so the masks stay as they are", step)
                return
            if gradients is None:
                raise ConfigurationError(
                    "mask: snip goes by the gradient of the loss, and that of the first batch is zero or not finite: "
                    "use another mask"
                )
        begun = self._sparsity.begun(step)
        self._optimizer.param_groups[0]["picked"] = begun
        forget(self._optimizer)
        selections, compiler = self._optimizer.engine.selections, self._optimizer.engine.directions.compiler
        for name, parameter in self._covered().items():
            state = self._optimizer.state[parameter]
            gradient = None if gradients is None else gradients.pop(name)
            selection = self._sparsity.select(parameter, self._stream(name, begun), compiler, gradient)
            if selection is not None:
                selections[name] = selection
                state.update(threshold=selection.threshold, cut=selection.cut)
                if selection.bits is not None:
                    state["bits"] = selection.bits

    def _gradients(self, closure: Closure) -> dict[str, Tensor] | None:
        """Return the gradient of each parameter by name, or None if it is zero or not finite."""
        parameters = self._optimizer.engine.parameters
        for parameter in parameters.values():
            parameter.grad = None
        with torch.enable_grad():
            loss = closure()
            if loss.requires_grad:
                torch.autograd.backward(loss)
        found: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = None
        finite = all(bool(gradient.isfinite().all()) for gradient in found.values())
        return found if finite and any(bool(gradient.any()) for gradient in found.values()) else None

    @property
    def _picked(self) -> int | None:
        """The step at which the masks in force were picked, in a parameter group, so that a checkpoint has it."""
        picked: int | None = self._optimizer.param_groups[0]["picked"]
        return picked

    def _covered(self) -> dict[str, nn.Parameter]:
        parameters = self._optimizer.engine.parameters.items()
        return {name: parameter for name, parameter in parameters if self._sparsity.covers(parameter)}

    def _stream(self, name: str, begun: int) -> Stream:
        return self._optimizer.engine.stream(
            name, Stream(self._optimizer.seed, parameter=0, step=begun, lane=Lane.MASK)
        )
