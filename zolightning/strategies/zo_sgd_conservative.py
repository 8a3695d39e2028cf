"""ZO-SGD-Cons: zeroth-order steps that are taken only where they help."""

from __future__ import annotations

from typing_extensions import override

from zolightning.optim.updates import Conservative, Update
from zolightning.strategies.base import Card
from zolightning.strategies.zeroth_order import ZerothOrder


class ZOSGDConservative(ZerothOrder):
    """theta <- argmin of f over {theta, theta - lr ghat, theta + lr ghat} on one batch; ghat = (1/q) sum_i g_i z_i.

    ZO-SGD-Cons in ZO-Bench (arXiv 2402.11592). 2q + 3 forwards a step, or q + 3 with one-sided differences, which have
    been at theta; no state. Unlike the released code it steps by itself, not by AdamW, which does not undo a step, and
    heeds masks and queries. Candidates are compared before stochastic rounding; weight decay is decoupled from the
    choice.

    Raises:
        ConfigurationError: as ZerothOrder, and when the optimizer is made, if probes are in place.
    """

    card = Card(
        update="the best of theta, theta - lr ghat, theta + lr ghat",
        forwards="2q + 3; q + 3 one-sided",
        state="none",
        paper="ZO-Bench, 2402.11592",
    )

    @override
    def update(self) -> Update:
        return Conservative()
