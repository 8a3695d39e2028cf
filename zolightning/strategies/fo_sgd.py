"""FO-SGD: stochastic gradient descent by backpropagation."""

from __future__ import annotations

from torch import nn
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.optim.first_order import BackpropSGD
from zolightning.strategies.base import Card
from zolightning.strategies.first_order import FirstOrder


class FOSGD(FirstOrder):
    """Stochastic gradient descent: m <- momentum m + grad f; theta <- theta - lr m.

    FO-SGD in ZO-Bench (arXiv 2402.11592). One forward and one backward a step; state: with momentum, one
    number a weight.

    Args:
        lr: learning rate.
        momentum: decay of the running sum of gradients, in [0, 1).
        weight_decay: decoupled weight decay; biases and norms are exempt.
        clip_norm: the largest norm of the whole gradient, or None for no clipping.

    Raises:
        ConfigurationError: if lr or weight_decay is negative, momentum lies outside [0, 1), or clip_norm is not
            positive.
    """

    card = Card(
        update="theta - lr grad f, with momentum",
        forwards="1, and a backward",
        state="0 or 1 number a weight",
        paper="ZO-Bench, 2402.11592",
    )

    def __init__(
        self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, clip_norm: float | None = None
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm)
        if not 0 <= momentum < 1:
            raise ConfigurationError(f"momentum must lie in [0, 1), got {momentum}")
        self.momentum = momentum

    @override
    def configure_optimizer(self, model: nn.Module, seed: int) -> BackpropSGD:
        return BackpropSGD(
            model, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, clip_norm=self.clip_norm
        )
