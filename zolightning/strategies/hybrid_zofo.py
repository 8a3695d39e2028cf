"""Hybrid ZO-FO: backpropagation through the last blocks, probes for all before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.optim.blocks import layers_of
from zolightning.optim.estimators import Closure
from zolightning.optim.hybrid import HybridOptimizer
from zolightning.optim.split import last_layers, training
from zolightning.strategies.base import Card, Strategy
from zolightning.strategies.first_order import FirstOrder
from zolightning.strategies.zeroth_order import ZerothOrder, check_zeroth_order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zolightning.finetuner import FineTuner


class HybridZOFO(Strategy):
    """First-order on the last transformer blocks and the head, zeroth-order on the rest; both from the same weights.

    Hybrid ZO-FO fine-tuning, an enhancement of ZO-Bench, arXiv 2402.11592, whose code was not released. 2q + 1 forwards
    a step and a backward pass that ends at the last blocks: no activations are kept of what lies below. Memory above
    inference: activations, gradients and first-order state of the last blocks, and the zeroth-order method's own state.
    Dropout is off, as the probes need it, however many blocks are first-order.

    A weight that the head shares with the embeddings is zeroth-order, because its gradient would reach down to the
    input. With no blocks the method is the zeroth-order one, with all of them the first-order one, embeddings included.

    Args:
        zeroth: the method for the lower part, with its learning rate and all else.
        first: the method for the upper part, with its learning rate and all else.
        first_order_layers: how many transformer blocks, from the last one down, are first-order.

    Raises:
        ConfigurationError: if first_order_layers is negative, or, when the optimizer is made, the model has fewer.
    """

    card = Card(
        update="the first-order method on the last blocks and the head, the zeroth-order one on the rest",
        forwards="2q + 1, and a short backward",
        state="each method's on its part",
        paper="ZO-Bench, 2402.11592",
    )

    def __init__(self, zeroth: ZerothOrder, first: FirstOrder, first_order_layers: int = 1) -> None:
        if first_order_layers < 0:
            raise ConfigurationError(f"first_order_layers must not be negative, got {first_order_layers}")
        check_zeroth_order("zeroth", zeroth)
        self.zeroth = zeroth
        self.first = first
        self.first_order_layers = first_order_layers

    @property
    @override
    def needs_gradient(self) -> bool:
        return True

    @override
    def setup(self, model: nn.Module) -> None:
        self.zeroth.setup(model)

    @override
    def configure_optimizer(self, model: nn.Module, seed: int) -> Optimizer:
        names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
        upper = last_layers(model, names, self.first_order_layers)
        blocks = len(list(layers_of(model)))
        if self.first_order_layers == 0:
            return self.zeroth.configure_optimizer(model, seed)
        if self.first_order_layers == blocks:
            return self.first.configure_optimizer(model, seed)
        if not 0 < len(upper) < len(names):
            part, method = ("first", self.first) if not upper else ("zeroth", self.zeroth)
            raise ConfigurationError(
                f"first_order_layers={self.first_order_layers} of {blocks} leave nothing trainable to {part}, "
                f"{type(method).__name__}: use the other method alone"
            )
        trained = {parameter for parameter, name in names.items() if name in upper}
        with training(model, trained):
            first = self.first.configure_optimizer(model, seed)
        with training(model, names.keys() - trained):
            zeroth = self.zeroth.configure_optimizer(model, seed)
        return HybridOptimizer(model, zeroth, first)

    @override
    def check(self, optimizer: Optimizer, closure: Closure) -> None:
        self.zeroth.check(_zeroth(optimizer), closure)

    @override
    def on_train_start(self, module: FineTuner) -> None:
        self.zeroth.on_train_start(module)
        self.first.on_train_start(module)

    @override
    def on_train_batch_end(self, module: FineTuner) -> None:
        self.zeroth.on_train_batch_end(module)
        self.first.on_train_batch_end(module)

    @override
    def on_validation_end(self, module: FineTuner, metrics: Mapping[str, Tensor]) -> None:
        self.zeroth.on_validation_end(module, metrics)
        self.first.on_validation_end(module, metrics)

    @override
    def metrics(self, optimizer: Optimizer) -> dict[str, Tensor]:
        return self.zeroth.metrics(_zeroth(optimizer))

    @override
    def skipped(self, optimizer: Optimizer) -> Tensor | None:
        if isinstance(optimizer, HybridOptimizer):
            return optimizer.skipped
        counts = self.zeroth.skipped(optimizer)
        return self.first.skipped(optimizer) if counts is None else counts

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"zeroth": self.zeroth.state_dict(), "first": self.first.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.zeroth.load_state_dict(state_dict["zeroth"])
        self.first.load_state_dict(state_dict["first"])


def _zeroth(optimizer: Optimizer) -> Optimizer:
    return optimizer.zeroth if isinstance(optimizer, HybridOptimizer) else optimizer
