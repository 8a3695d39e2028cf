"""What several processes that train together may do, so that their weights stay equal."""

from __future__ import annotations

from typing import Literal

from torch.optim import Optimizer

from zolightning.errors import ConfigurationError
from zolightning.optim.hybrid import HybridOptimizer
from zolightning.optim.ranks import Ranks
from zolightning.optim.zeroth_order import ZerothOrderOptimizer

RankUse = Literal["data", "queries"]


def train_together(optimizer: Optimizer, ranks: Ranks, use: RankUse) -> None:
    """Make an optimizer one of those of several processes, which all take the same steps.

    Args:
        optimizer: of a model whose weights are the same on all ranks.
        ranks: the processes.
        use: `data`: its closure returns what all ranks' closures return together, as the mean of their losses does.
            `queries`: its closure returns the loss of the rank's own data, and each rank probes its part of the
            queries.

    Raises:
        ConfigurationError: if the method cannot do so.
    """
    if ranks.size == 1:
        return
    probing = optimizer.zeroth if isinstance(optimizer, HybridOptimizer) else optimizer
    if isinstance(probing, ZerothOrderOptimizer) and probing.engine.options.idle_rows == "skip":
        raise ConfigurationError(
            f"engine.idle_rows: skip goes by the tokens that a process itself has read, and {ranks.size} processes "
            "read different ones: use engine.idle_rows: update"
        )
    if use == "data":
        return
    if not isinstance(optimizer, ZerothOrderOptimizer):
        raise ConfigurationError(
            f"model.ranks: queries divides the queries of a zeroth-order method, and {type(optimizer).__name__} goes "
            "by the gradient of the whole batch too: use model.ranks: data"
        )
    optimizer.share_queries(ranks)
