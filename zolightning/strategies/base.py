"""The strategy: how the weights move. What a user picks in YAML, or subclasses to try a method of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from zolightning.optim.estimators import Closure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zolightning.finetuner import FineTuner


class Card(NamedTuple):
    """A strategy in one row of a table.

    Args:
        update: the formula.
        forwards: a step, with q the number of queries.
        state: numbers kept for each weight, beside the weights.
        paper: where it comes from.
    """

    update: str
    forwards: str
    state: str
    paper: str


class Strategy(ABC):
    """How theta moves, as a set of hooks: a method states its optimizer and overrides what else differs.

    The hooks, in the order in which a run calls them: `setup`, `load_state_dict` (on resume), `configure_optimizer`,
    `check`, `on_train_start`, then for each batch `training_step` and `on_train_batch_end`, and after each validation
    `on_validation_end`. The optimizer is a `torch.optim.Optimizer` whose `step(closure)` is a whole step, so that a
    strategy also works in a bare loop and in Fabric.

    Example:
        >>> import torch
        >>> from zolightning.strategies import ZOSGD
        >>> model = torch.nn.Linear(4, 1)
        >>> data, target = torch.randn(8, 4), torch.randn(8, 1)
        >>> optimizer = ZOSGD(lr=1e-2, eps=1e-3).configure(model, seed=0)
        >>> for _ in range(10):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(data), target))
    """

    card: ClassVar[Card | None] = None

    def configure(self, model: nn.Module, *, seed: int = 0) -> Optimizer:
        """Make a model ready and return its optimizer, for use without Lightning.

        Zeroth-order strategies put the model in evaluation mode: with dropout on, probes would differ by more than the
        direction.

        Args:
            model: the model; its parameters with requires_grad are trained.
            seed: the run's seed, 64 bits.
        """
        self.setup(model)
        return self.configure_optimizer(model, seed)

    def setup(self, model: nn.Module) -> None:
        """Prepare the model before its optimizer is made: its mode, or what trains."""

    @abstractmethod
    def configure_optimizer(self, model: nn.Module, seed: int) -> Optimizer:
        """Return the optimizer.

        Args:
            model: the model; its parameters with requires_grad are trained.
            seed: the run's seed, 64 bits.
        """

    def check(self, optimizer: Optimizer, closure: Closure) -> None:
        """Check, before training or the first evaluation, that the method suits the model.

        Args:
            optimizer: what `configure_optimizer` returned.
            closure: returns the loss [] of a small batch at the weights as they are.

        Raises:
            ConfigurationError: if it does not, saying what to set.
        """

    @property
    def needs_gradient(self) -> bool:
        """Whether the method differentiates the loss, so that it cannot optimise a metric."""
        return False

    def on_train_start(self, module: FineTuner) -> None:
        """Called once, after a checkpoint has been restored and before the first batch."""

    def training_step(self, optimizer: Optimizer, closure: Closure) -> Tensor:
        """Take one step and return the loss [].

        Args:
            optimizer: what `configure_optimizer` returned, perhaps wrapped by Lightning or Fabric. Step it exactly once
                a batch: the run counts its steps.
            closure: returns the loss [] of the batch at the weights as they are.
        """
        return cast("Tensor", optimizer.step(closure=closure))  # type: ignore[arg-type]

    def on_train_batch_end(self, module: FineTuner) -> None:
        """Called after each step."""

    def on_validation_end(self, module: FineTuner, metrics: Mapping[str, Tensor]) -> None:
        """Called after each validation with its metrics, such as `val/accuracy`."""

    def metrics(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return what to log of the last step, by name; tensors stay on their device."""
        return {}

    def skipped(self, optimizer: Optimizer) -> Tensor | None:
        """Return the counts of skipped steps, int64 [3] (in all, in a row, longest row), or None if none is counted."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of the strategy beside its optimizer's state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


def logged(strategy: Strategy, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return what a run logs of the last step beside its loss, as `train/<name>`; tensors stay on their device."""
    metrics, skipped = strategy.metrics(optimizer), strategy.skipped(optimizer)
    if skipped is not None:
        metrics["skipped"] = skipped[0].float()
    return {f"train/{name}": value for name, value in metrics.items()}
