"""Loading a model the way a distributed strategy lays it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zolightning.distributed.sharded import ShardedStrategy
from zolightning.models.loading import Attention, Dtype, load_model

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy
    from torch import nn

    from zolightning.models.schemes import Scheme


def load_on(
    distributed: Strategy, backbone: str, dtype: Dtype, attention: Attention, scheme: Scheme, seed: int
) -> nn.Module:
    """Load a backbone with a scheme's parameters trainable: a part of it on each process, or all of it.

    Args:
        distributed: Lightning's strategy.
        backbone: hub id, folder, or `sample`.
        dtype: of the weights.
        attention: the implementation.
        scheme: which parameters train.
        seed: of what an adapter draws.

    Raises:
        ConfigurationError: if it cannot be had, has no such parameters, or the strategy cannot train them.
    """
    if isinstance(distributed, ShardedStrategy):
        return distributed.load(backbone, dtype, attention, scheme)
    return scheme.apply(load_model(backbone, dtype, attention), seed=seed)
