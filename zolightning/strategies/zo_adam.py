"""ZO-Adam: Adam on zeroth-order estimates."""

from __future__ import annotations

from typing_extensions import override

from zolightning.optim.estimators import Sides
from zolightning.optim.rules import Adam
from zolightning.optim.updates import Elementwise, Update
from zolightning.perturbation.masks import Score
from zolightning.perturbation.options import DEFAULT, EngineOptions
from zolightning.strategies.base import Card
from zolightning.strategies.zeroth_order import ZerothOrder


class ZOAdam(ZerothOrder):
    """Adam (Kingma and Ba, arXiv 1412.6980) on ghat = (1/q) sum_i g_i z_i, with decoupled weight decay.

    m <- b1 m + (1 - b1) ghat; v <- b2 v + (1 - b2) ghat^2; theta <- theta - lr mhat / (sqrt(vhat) + adam_eps).
    ZO-Adam in ZO-Bench (arXiv 2402.11592). 2q forwards a step; state: two float32 numbers a weight (float64 for float64
    weights), whatever the dtype of the weights; in float16 adam_eps would be zero, and a weight that got no estimate
    NaN.

    Args:
        lr: learning rate.
        eps: smoothing parameter; 1e-3 is usual.
        betas: decay of the first and second moment, each in [0, 1).
        adam_eps: added to the root of the second moment.
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
        ConfigurationError: if lr or weight_decay is negative, eps is not positive, num_queries is below 1, a
            beta lies outside [0, 1), or adam_eps is negative.
    """

    card = Card(
        update="Adam on ghat, AdamW with weight decay",
        forwards="2q; q + 1 one-sided",
        state="2 float32 a weight",
        paper="Adam, 1412.6980",
    )

    def __init__(
        self,
        lr: float,
        eps: float,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        num_queries: int = 1,
        weight_decay: float = 0.0,
        estimator: Sides = "two_sided",
        mask: Score | None = None,
        sparsity: float | None = None,
        resample_every: int | None = None,
        engine: EngineOptions = DEFAULT,
    ) -> None:
        super().__init__(lr, eps, num_queries, weight_decay, estimator, mask, sparsity, resample_every, engine)
        self.rule = Adam(betas, adam_eps)

    @override
    def update(self) -> Update:
        return Elementwise(self.rule)
