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
    """

    card = Card(
        update="theta - lr ghat, ghat = (1/q) sum g z, g = (f(theta + eps z) - f(theta - eps z)) / (2 eps)",
        forwards="2q; q + 1 one-sided",
        state="none",
        paper="MeZO, 2305.17333",
    )
