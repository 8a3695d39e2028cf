"""What the first-order strategies share."""

from __future__ import annotations

import math
from abc import abstractmethod

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.optim.first_order import FirstOrderOptimizer
from zolightning.strategies.base import Strategy


class FirstOrder(Strategy):
    """Base of strategies that use the gradient by backpropagation, for comparison.

    A subclass overrides `configure_optimizer`. Updates of half-precision weights are torch's, rounded to nearest, and
    lose small steps: compare in float32. A step waits for the device to learn whether its gradient is finite.

    Args:
        lr: learning rate.
        weight_decay: decoupled weight decay; biases and norms are exempt.
        clip_norm: the largest norm of the whole gradient, or None for no clipping.

    Raises:
        ConfigurationError: if lr or weight_decay is negative, or clip_norm is not positive.
    """

    def __init__(self, lr: float, weight_decay: float = 0.0, clip_norm: float | None = None) -> None:
        if not 0 <= lr < math.inf:
            raise ConfigurationError(f"lr must be a number from 0 on, got {lr}")
        if not 0 <= weight_decay < math.inf:
            raise ConfigurationError(f"weight_decay must be a number from 0 on, got {weight_decay}")
        if clip_norm is not None and not clip_norm > 0:
            raise ConfigurationError(f"clip_norm must be positive, or null for no clipping, got {clip_norm}")
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm

    @abstractmethod
    @override
    def configure_optimizer(self, model: nn.Module, seed: int) -> FirstOrderOptimizer:
        """Return the optimizer."""

    @property
    @override
    def needs_gradient(self) -> bool:
        return True

    @override
    def setup(self, model: nn.Module) -> None:
        """Turn dropout on, where the model has it."""
        model.train()

    @override
    def skipped(self, optimizer: Optimizer) -> Tensor | None:
        return optimizer.guard.counts if isinstance(optimizer, FirstOrderOptimizer) else None
