"""Optimizers whose `step(closure)` is a whole step: estimators and update rules, with no Lightning from here down."""

from __future__ import annotations

from zolightning.optim.estimators import Estimate, two_sided
from zolightning.optim.first_order import BackpropAdamW, BackpropSGD
from zolightning.optim.sparsity import Sparsity
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.optim.zeroth_order_sgd import ZerothOrderSGD

__all__ = (
    "BackpropAdamW",
    "BackpropSGD",
    "Estimate",
    "Sparsity",
    "ZerothOrderOptimizer",
    "ZerothOrderSGD",
    "two_sided",
)
