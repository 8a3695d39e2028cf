"""What several processes cannot do together is refused before the first step."""

from __future__ import annotations

import pytest
from torch import nn

from zolightning.errors import ConfigurationError
from zolightning.optim.ranks import Ranks
from zolightning.optim.together import RankUse, train_together
from zolightning.perturbation.options import EngineOptions
from zolightning.strategies import FOSGD, ZOSGD, BlockwiseZO, SparseMeZO, Strategy, ZOSGDConservative

PAIR = Ranks(1, 2)
SKIP = EngineOptions(idle_rows="skip")


@pytest.mark.parametrize(
    ("strategy", "use", "message"),
    [
        (ZOSGD(lr=1e-3, eps=1e-3, engine=SKIP), "data", "idle_rows: update"),
        (BlockwiseZO(ZOSGD(lr=1e-3, eps=1e-3, engine=SKIP)), "data", "idle_rows: update"),
        (ZOSGD(lr=1e-3, eps=1e-3), "queries", "num_queries=1 .* such as 2"),
        (SparseMeZO(lr=1e-3, eps=1e-3, keep_ratio=0.2, num_queries=5), "queries", "num_queries=5 .* such as 6"),
        (FOSGD(lr=1e-3), "queries", "BackpropSGD .* model.ranks: data"),
        (ZOSGD(lr=1e-3, eps=1e-3, num_queries=2, mask="snip", sparsity=0.5), "queries", "snip"),
        (
            ZOSGD(lr=1e-3, eps=1e-3, num_queries=2, engine=EngineOptions(probe="in_place")),
            "queries",
            "probe: in_forward",
        ),
    ],
)
def test_what_processes_cannot_do_together_is_refused(strategy: Strategy, use: RankUse, message: str) -> None:
    optimizer = strategy.configure(nn.Linear(4, 2))
    train_together(optimizer, Ranks(), use)
    with pytest.raises(ConfigurationError, match=message):
        train_together(optimizer, PAIR, use)


@pytest.mark.parametrize("use", ["data", "queries"])
def test_all_else_is_not(use: RankUse) -> None:
    for strategy in (ZOSGDConservative(lr=1e-3, eps=1e-3, num_queries=4), ZOSGD(lr=1e-3, eps=1e-3, num_queries=2)):
        train_together(strategy.configure(nn.Linear(4, 2)), PAIR, use)
