"""Stochastic gradient descent on zeroth-order estimates: MeZO, and with a mask Sparse-MeZO."""

from __future__ import annotations

import torch
from typing_extensions import override

from zolightning.optim.estimators import Estimate
from zolightning.optim.zeroth_order import ZerothOrderOptimizer


class ZerothOrderSGD(ZerothOrderOptimizer):
    r"""theta <- theta - lr ((1/q) sum_i g_i z_i + weight_decay theta), on the selected weights.

    MeZO (Malladi et al., arXiv 2305.17333, algorithm 1; ZO-SGD in ZO-Bench, arXiv 2402.11592); with `sparsity`,
    Sparse-MeZO (Liu et al., arXiv 2402.15751, algorithm 1), whose mask is made anew from the weights as they are, and
    is the same in probe and update. No state beyond the counters, and two integers a masked tensor.
    """

    @override
    def update(self, estimate: Estimate) -> None:
        lr = self.param_groups[0]["lr"]
        alive = estimate.finite.to(estimate.projected_gradients.dtype)
        decay = {id(p): group["weight_decay"] for group in self.param_groups for p in group["params"]}
        self.engine.update(
            [self.place(query) for query in range(self.num_queries)],
            torch.where(estimate.finite, estimate.projected_gradients * (lr / self.num_queries), 0.0),
            {name: alive * (lr * decay[id(p)]) for name, p in self.engine.parameters.items()},
            self.rounding,
        )
