"""ZO-SGD: MeZO."""

from __future__ import annotations

from zolightning.strategies.base import Card
from zolightning.strategies.zeroth_order import ZerothOrder


class ZOSGD(ZerothOrder):
    """MeZO: theta <- theta - lr (1/q) sum_i g_i z_i, g_i = (f(theta + eps z_i) - f(theta - eps z_i)) / (2 eps).

    Malladi et al., arXiv 2305.17333, algorithm 1; ZO-SGD in ZO-Bench (arXiv 2402.11592). 2q forwards a step, or q + 1
    with one-sided differences g_i = (f(theta + eps z_i) - f(theta)) / eps; no state. Unlike the released code, the
    weights do not move while they are probed, directions come from counters, and the loss is float32 whatever the
    weights are.

    Args:
        lr: learning rate; the papers use 1e-6 or 1e-7 for models of billions of weights.
        eps: smoothing parameter; 1e-3 is usual.
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
        update="theta - lr ghat, ghat = (1/q) sum g z, g = (f(theta + eps z) - f(theta - eps z)) / (2 eps)",
        forwards="2q; q + 1 one-sided",
        state="none",
        paper="MeZO, 2305.17333",
    )
