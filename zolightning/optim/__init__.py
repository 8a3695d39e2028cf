"""Optimizers whose `step(closure)` is a whole step: estimators and update rules, with no Lightning from here down."""

from __future__ import annotations

from zolightning.optim.blocks import Blocks
from zolightning.optim.estimators import Estimate, forward_mode, one_sided, two_sided
from zolightning.optim.first_order import BackpropAdamW, BackpropSGD
from zolightning.optim.rules import Adam, Momentum, Rule, Sign
from zolightning.optim.sparsity import Sparsity
from zolightning.optim.updates import Conservative, Elementwise, Linear, SignOfProjections, Update
from zolightning.optim.zeroth_order import ZerothOrderOptimizer

__all__ = (
    "Adam",
    "BackpropAdamW",
    "BackpropSGD",
    "Blocks",
    "Conservative",
    "Elementwise",
    "Estimate",
    "Linear",
    "Momentum",
    "Rule",
    "Sign",
    "SignOfProjections",
    "Sparsity",
    "Update",
    "ZerothOrderOptimizer",
    "forward_mode",
    "one_sided",
    "two_sided",
)
