"""FO-Adam: Adam by backpropagation."""

from __future__ import annotations

from torch import nn
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.optim.first_order import BackpropAdamW
from zolightning.strategies.base import Card
from zolightning.strategies.first_order import FirstOrder


class FOAdam(FirstOrder):
    """Adam (Kingma and Ba, arXiv 1412.6980), and AdamW (arXiv 1711.05101) where weight_decay is above zero.

    FO-Adam in ZO-Bench (arXiv 2402.11592). One forward and one backward a step; state: two numbers a weight.

    Args:
        lr: learning rate.
        betas: decay of the first and second moment, each in [0, 1).
        adam_eps: added to the root of the second moment.
        weight_decay: decoupled weight decay; biases and norms are exempt.
        clip_norm: the largest norm of the whole gradient, or None for no clipping.

    Raises:
        ConfigurationError: if lr or weight_decay is negative, a beta lies outside [0, 1), or clip_norm is not positive.
    """

    card = Card(
        update="Adam on grad f, AdamW with weight decay",
        forwards="1, and a backward",
        state="2 numbers a weight",
        paper="Adam, 1412.6980",
    )

    def __init__(
        self,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm)
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigurationError(f"betas must lie in [0, 1), got {betas}")
        self.betas = betas
        self.adam_eps = adam_eps

    @override
    def configure_optimizer(self, model: nn.Module, seed: int) -> BackpropAdamW:
        return BackpropAdamW(
            model,
            lr=self.lr,
            betas=self.betas,
            adam_eps=self.adam_eps,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )
