"""Recorded steps, taken again several in a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.models import Quadratic
from zolightning.errors import ConfigurationError
from zolightning.journal import replay
from zolightning.journal.identity import describe, rebuild
from zolightning.optim.blocks import Blocks
from zolightning.optim.recall import goes_in_turn
from zolightning.optim.records import Record
from zolightning.optim.sparsity import Sparsity
from zolightning.optim.updates import SignOfProjections
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.perturbation.options import EngineOptions
from zolightning.perturbation.rounding import wide

SIGNS = EngineOptions(distribution="rademacher")


def made(model: Quadratic, **settings: Any) -> ZerothOrderOptimizer:
    return ZerothOrderOptimizer(model, **{"lr": 1e-3, "eps": 1e-3, "engine": SIGNS, **settings})


def loss_of(model: Quadratic, more: float) -> Callable[[], Tensor]:
    return lambda: wide(model()) + more


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay": 0.1}, {"update": SignOfProjections()}], ids=["plain", "decay", "signs"]
)
def test_several_steps_in_a_pass_are_one_after_the_other(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    model, ticks = Quadratic(dtype), list[int]()
    optimizer, records = made(model, **settings), []
    for step in range(70):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 / (1 + step)
        loss = optimizer.step(loss_of(model, torch.nan if step == 3 else 0.0))
        assert optimizer.taken is not None
        lr = optimizer.param_groups[0]["lr"]
        records.append(Record(step, lr, float(loss), tuple(optimizer.taken.factors.tolist())))
    again = Quadratic(dtype)
    other = rebuild(again, describe(optimizer))
    replay(other, records, ticks.append, several=True)
    assert ticks == [64, 6]
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    assert other.step_count == 70
    assert other.guard.counts.tolist() == [1, 0, 0]
    with pytest.raises(ConfigurationError, match="not those of step 70"):
        replay(other, records, several=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": EngineOptions()},
        {"engine": EngineOptions(distribution="rademacher", probe="in_place")},
        {"sparsity": Sparsity(0.5)},
        {"blocks": Blocks("linear")},
        {"num_queries": 2},
    ],
    ids=["gaussian", "in place", "masked", "block by block", "queries"],
)
def test_only_what_is_linear_and_light_is_taken_several_at_a_time(settings: dict[str, Any]) -> None:
    assert goes_in_turn(made(Quadratic()))
    assert not goes_in_turn(made(Quadratic(), **settings))
