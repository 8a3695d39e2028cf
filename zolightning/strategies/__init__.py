"""Strategies: how the weights move, one zeroth- or first-order method a file."""

from __future__ import annotations

from zolightning.strategies.base import Strategy
from zolightning.strategies.blockwise_zo import BlockwiseZO
from zolightning.strategies.first_order import FirstOrder
from zolightning.strategies.fo_adam import FOAdam
from zolightning.strategies.fo_sgd import FOSGD
from zolightning.strategies.forward_gradient import ForwardGradient
from zolightning.strategies.hybrid_zofo import HybridZOFO
from zolightning.strategies.sparse_mezo import SparseMeZO
from zolightning.strategies.zeroth_order import ZerothOrder
from zolightning.strategies.zo_adam import ZOAdam
from zolightning.strategies.zo_sgd import ZOSGD
from zolightning.strategies.zo_sgd_conservative import ZOSGDConservative
from zolightning.strategies.zo_sgd_momentum import ZOSGDMomentum
from zolightning.strategies.zo_sgd_sign import ZOSGDSign

__all__ = (
    "FOSGD",
    "ZOSGD",
    "BlockwiseZO",
    "FOAdam",
    "FirstOrder",
    "ForwardGradient",
    "HybridZOFO",
    "SparseMeZO",
    "Strategy",
    "ZOAdam",
    "ZOSGDConservative",
    "ZOSGDMomentum",
    "ZOSGDSign",
    "ZerothOrder",
)
