"""Block-wise ZO: a zeroth-order method on one part of the model at a time."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from zolightning.optim.blocks import Blocks, Choice, Granularity, Order
from zolightning.optim.estimators import Closure
from zolightning.strategies.base import Card, Strategy
from zolightning.strategies.zeroth_order import ZerothOrder, check_zeroth_order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zolightning.finetuner import FineTuner


class BlockwiseZO(Strategy):
    """Any zeroth-order method, block by block: theta_b <- theta_b - lr ghat_b, with directions that move block b alone.

    Block-wise ZO, an enhancement of ZO-Bench, arXiv 2402.11592. 2q forwards a block; a direction of fewer
    dimensions estimates its part of the gradient with less variance. Blocks are found on any model by its structure.

    Args:
        method: the method, with its learning rate and all else.
        granularity: `layer` a transformer block each, `half_layer` its attention and the rest of it, `linear` each
            module that holds parameters. What lies outside of transformer blocks is a block a module in every case.
        order: `sequential` updates each block before the next one is probed, `joint` all after the last.
        blocks_per_step: how many blocks a step works on, or None for all.
        choice: which: `cycle` goes on where the last step ended, `sample` draws them anew.

    Raises:
        ConfigurationError: if a choice is not one of those, blocks_per_step is below 1, or the method is no ZerothOrder
            strategy.
    """

    card = Card(
        update="the method on one block of the model at a time",
        forwards="the method's, for each block",
        state="the method's",
        paper="ZO-Bench, 2402.11592",
    )

    def __init__(
        self,
        method: ZerothOrder,
        granularity: Granularity = "layer",
        order: Order = "sequential",
        blocks_per_step: int | None = None,
        choice: Choice = "cycle",
    ) -> None:
        check_zeroth_order("method", method)
        # A copy, because the method itself may be used elsewhere.
        self.method = copy.copy(method)
        self.method.blocks = Blocks(granularity, order, blocks_per_step, choice)

    @property
    @override
    def needs_gradient(self) -> bool:
        return self.method.needs_gradient

    @override
    def setup(self, model: nn.Module) -> None:
        self.method.setup(model)

    @override
    def configure_optimizer(self, model: nn.Module, seed: int) -> Optimizer:
        return self.method.configure_optimizer(model, seed)

    @override
    def check(self, optimizer: Optimizer, closure: Closure) -> None:
        self.method.check(optimizer, closure)

    @override
    def on_train_start(self, module: FineTuner) -> None:
        self.method.on_train_start(module)

    @override
    def training_step(self, optimizer: Optimizer, closure: Closure) -> Tensor:
        return self.method.training_step(optimizer, closure)

    @override
    def on_train_batch_end(self, module: FineTuner) -> None:
        self.method.on_train_batch_end(module)

    @override
    def on_validation_end(self, module: FineTuner, metrics: Mapping[str, Tensor]) -> None:
        self.method.on_validation_end(module, metrics)

    @override
    def metrics(self, optimizer: Optimizer) -> dict[str, Tensor]:
        return self.method.metrics(optimizer)

    @override
    def skipped(self, optimizer: Optimizer) -> Tensor | None:
        return self.method.skipped(optimizer)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.method.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.method.load_state_dict(state_dict)
