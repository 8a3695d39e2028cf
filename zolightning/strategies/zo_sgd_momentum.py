"""ZO-SGD-MMT: momentum on zeroth-order estimates."""

from __future__ import annotations

from typing_extensions import override

from zolightning.optim.estimators import Sides
from zolightning.optim.rules import Momentum
from zolightning.optim.updates import Elementwise, Update
from zolightning.perturbation.masks import Score
from zolightning.perturbation.options import DEFAULT, EngineOptions
from zolightning.strategies.base import Card
from zolightning.strategies.zeroth_order import ZerothOrder


class ZOSGDMomentum(ZerothOrder):
    """m <- beta m + ghat; theta <- theta - lr m, with ghat = (1/q) sum_i g_i z_i.

    ZO-SGD-MMT in ZO-Bench (arXiv 2402.11592), with the momentum of torch.optim.SGD. 2q forwards a step; state: one
    float32 number a weight (float64 for float64 weights), whatever the dtype of the weights.

    Args:
        lr: learning rate.
        eps: smoothing parameter; 1e-3 is usual.
        momentum: beta, decay of the running sum of estimates, in [0, 1).
        num_queries: directions a step; the estimate is their mean.
        weight_decay: decoupled weight decay; biases and norms are exempt.
        estimator: `two_sided` differences, of 2q forwards, or `one_sided`, of q + 1.
        mask: which weights are perturbed and updated: `random` ones, small ones (`magnitude`), `large` ones, or
            those of the largest |theta df/dtheta| (`snip`, which takes a backward pass and its memory when it picks);
            null for all.
        sparsity: with a mask, the fraction of each weight tensor that stays still, in [0, 1).
        resample_every: steps after which a mask is picked anew; null for never.
        engine: how directions are drawn, weights probed and updates rounded; see `EngineOptions`.

    Raises:
        ConfigurationError: if lr or weight_decay is negative, eps is not positive, num_queries is below 1, or
            momentum lies outside [0, 1).
    """

    card = Card(
        update="theta - lr m, m = beta m + ghat",
        forwards="2q; q + 1 one-sided",
        state="1 float32 a weight",
        paper="ZO-Bench, 2402.11592",
    )

    def __init__(
        self,
        lr: float,
        eps: float,
        momentum: float = 0.9,
        num_queries: int = 1,
        weight_decay: float = 0.0,
        estimator: Sides = "two_sided",
        mask: Score | None = None,
        sparsity: float | None = None,
        resample_every: int | None = None,
        engine: EngineOptions = DEFAULT,
    ) -> None:
        super().__init__(lr, eps, num_queries, weight_decay, estimator, mask, sparsity, resample_every, engine)
        self.rule = Momentum(momentum)

    @override
    def update(self) -> Update:
        return Elementwise(self.rule)
