"""Stochastic gradient descent on zeroth-order estimates: MeZO, and with a mask Sparse-MeZO."""

from __future__ import annotations

from typing_extensions import override

from zolightning.optim.estimators import Estimate
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.perturbation.engine import Step


class ZerothOrderSGD(ZerothOrderOptimizer):
    """theta <- theta - lr ((1/q) sum_i g_i z_i + weight_decay theta), on the selected weights.

    MeZO (Malladi et al., arXiv 2305.17333, algorithm 1; ZO-SGD in ZO-Bench, arXiv 2402.11592); with `sparsity`,
    Sparse-MeZO (Liu et al., arXiv 2402.15751, algorithm 1), whose mask is made anew from the weights as they are, and
    is the same in probe and update. No state beyond the counters, and two integers a masked tensor.
    """

    @override
    def update(self, estimate: Estimate) -> None:
        shares = estimate.projected_gradients / self.num_queries
        alive = estimate.finite.to(shares.dtype)
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        steps: dict[tuple[float, float], Step] = {}
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            steps[lr, decay] = Step(lr * shares, alive * (lr * decay) if decay else None)
        of = {name: groups[id(parameter)] for name, parameter in self.engine.parameters.items()}
        self.engine.update(
            [self.place(query) for query in range(self.num_queries)],
            {name: steps[group["lr"], group["weight_decay"]] for name, group in of.items()},
        )
