"""ZO-SGD-Sign: sign descent on zeroth-order estimates."""

from __future__ import annotations

from typing import Literal

from typing_extensions import override

from zolightning.errors import check_choice
from zolightning.optim.estimators import Sides
from zolightning.optim.rules import Sign
from zolightning.optim.updates import Elementwise, SignOfProjections, Update
from zolightning.perturbation.masks import Score
from zolightning.perturbation.options import DEFAULT, EngineOptions
from zolightning.strategies.base import Card
from zolightning.strategies.zeroth_order import ZerothOrder


class ZOSGDSign(ZerothOrder):
    """theta <- theta - lr sign(ghat), elementwise, with ghat = (1/q) sum_i g_i z_i.

    Liu et al., "signSGD via zeroth-order oracle", ICLR 2019; ZO-SGD-Sign in ZO-Bench (arXiv 2402.11592). 2q forwards a
    step, no state. With `sign: scalar` it is theta <- theta - lr (1/q) sum_i sign(g_i) z_i, which is what ZO-Bench's
    released code computes: the sign of each projected gradient, not of the estimate. Every weight moves by lr.

    Args:
        lr: learning rate.
        eps: smoothing parameter; 1e-3 is usual.
        sign: of what: `elementwise` of the estimate, or `scalar` of each projected gradient.
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
        ConfigurationError: if lr or weight_decay is negative, eps is not positive, or num_queries is below 1.
    """

    card = Card(
        update="theta - lr sign(ghat), or sign(g) z",
        forwards="2q; q + 1 one-sided",
        state="none",
        paper="Liu et al., ICLR 2019",
    )

    def __init__(
        self,
        lr: float,
        eps: float,
        sign: Literal["elementwise", "scalar"] = "elementwise",
        num_queries: int = 1,
        weight_decay: float = 0.0,
        estimator: Sides = "two_sided",
        mask: Score | None = None,
        sparsity: float | None = None,
        resample_every: int | None = None,
        engine: EngineOptions = DEFAULT,
    ) -> None:
        super().__init__(lr, eps, num_queries, weight_decay, estimator, mask, sparsity, resample_every, engine)
        check_choice("sign", sign, ("elementwise", "scalar"))
        self.sign = sign

    @override
    def update(self) -> Update:
        return Elementwise(Sign()) if self.sign == "elementwise" else SignOfProjections()
