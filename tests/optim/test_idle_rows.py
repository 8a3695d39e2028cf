"""Rows of an embedding or head that a batch does not touch: moved with the others, or left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.words import IDS, Words, loss_of
from zolightning.optim import Sparsity, ZerothOrderOptimizer
from zolightning.perturbation.options import Distribution, EngineOptions, IdleRows

OPTIONS = torch.tensor([4, 3])
READ, SCORED = {1, 3, 7, 8, 9, 12, 30}, {3, 4}

both_paths = pytest.mark.usefixtures("both_paths")


def step(
    idle_rows: IdleRows,
    dtype: torch.dtype = torch.float64,
    *,
    tied: bool = False,
    options: Tensor | None = OPTIONS,
    distribution: Distribution = "gaussian",
    closure: Callable[[Words], Callable[[], Tensor]] = loss_of,
    **settings: Any,
) -> dict[str, Tensor]:
    """Return the weights after a step, by name."""
    model = Words(dtype, tied=tied, options=options)
    engine = EngineOptions(distribution=distribution, idle_rows=idle_rows)
    optimizer = ZerothOrderOptimizer(model, lr=0.1, eps=1e-2, seed=2, engine=engine, **settings)
    optimizer.step(closure(model))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def check(skipped: dict[str, Tensor], updated: dict[str, Tensor], rows: dict[str, set[int]]) -> None:
    """Check that of the tables named only the rows given moved, and those, like all else, as `update` moves them."""
    start = dict(Words(skipped["table.weight"].dtype).named_parameters())
    for name, weight in skipped.items():
        if name not in rows:
            assert torch.equal(weight, updated[name]), name
            continue
        touched = torch.tensor([row in rows[name] for row in range(40)])
        assert torch.equal(weight[touched], updated[name][touched]), name
        assert torch.equal(weight[~touched], start[name][~touched]), name
        assert not torch.equal(weight[touched], start[name][touched]), name


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "queries": {"num_queries": 2},
    "decay": {"weight_decay": 0.1},
    "rademacher": {"distribution": "rademacher"},
    "sphere": {"distribution": "sphere"},
    "sparse": {"sparsity": Sparsity(0.4), "weight_decay": 0.1},
    "sparse at random": {"sparsity": Sparsity(0.4, "random")},
    "bfloat16": {"dtype": torch.bfloat16, "num_queries": 2},
    "sparse float16": {"dtype": torch.float16, "sparsity": Sparsity(0.4)},
}


@both_paths
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_skip_leaves_what_a_batch_does_not_touch_and_moves_the_rest_as_update_does(settings: dict[str, Any]) -> None:
    check(step("skip", **settings), step("update", **settings), {"table.weight": READ, "head.weight": SCORED})


@both_paths
def test_a_tied_row_is_touched_if_it_is_read_or_scored() -> None:
    check(step("skip", tied=True), step("update", tied=True), {"table.weight": READ | SCORED})


@both_paths
def test_a_head_that_scores_every_word_has_no_idle_row() -> None:
    check(step("skip", options=None), step("update", options=None), {"table.weight": READ})


@both_paths
def test_a_tied_head_that_scores_every_word_leaves_no_idle_row() -> None:
    check(step("skip", tied=True, options=None), step("update", tied=True, options=None), {})


@both_paths
def test_update_moves_idle_rows_along_the_direction() -> None:
    start = dict(Words().named_parameters())
    for name, weight in step("update").items():
        assert bool((weight != start[name]).all()), name


def in_parts(model: Words) -> Callable[[], Tensor]:
    parts = loss_of(model, IDS[:1]), loss_of(model, IDS[1:])
    return lambda: parts[0]() + parts[1]()


@both_paths
def test_every_part_of_a_batch_counts() -> None:
    rows = {"table.weight": READ, "head.weight": SCORED}
    check(step("skip", closure=in_parts), step("update", closure=in_parts), rows)


def test_each_step_has_its_own_idle_rows_and_the_check_at_set_up_none() -> None:
    model = Words(options=OPTIONS)
    optimizer = ZerothOrderOptimizer(model, lr=0.1, eps=1e-2, engine=EngineOptions(idle_rows="skip"))
    optimizer.check(loss_of(model, torch.tensor([[20, 21, 22]])))
    for words in ([0, 1], [1, 2], [39, 0]):
        before = model.table.weight.detach().clone()
        optimizer.step(loss_of(model, torch.tensor([words])))
        moved = (model.table.weight != before).any(1).nonzero().flatten().tolist()
        assert moved == sorted(words)


def test_a_probe_after_the_step_touches_nothing_of_the_next() -> None:
    """Somebody who looks at a perturbed model between steps does not move its rows."""
    model = Words(options=OPTIONS)
    optimizer = ZerothOrderOptimizer(model, lr=0.1, eps=1e-2, engine=EngineOptions(idle_rows="skip"))
    optimizer.step(loss_of(model))
    with torch.no_grad(), optimizer.probe(0, 1e-2):
        model(torch.tensor([[25]]))
    before = model.table.weight.detach().clone()
    optimizer.step(loss_of(model))
    assert set((model.table.weight != before).any(1).nonzero().flatten().tolist()) == READ


def test_a_step_that_is_skipped_moves_no_row_either() -> None:
    start = dict(Words().named_parameters())
    left = step("skip", weight_decay=0.1, closure=lambda model: lambda: loss_of(model)() * float("nan"))
    assert all(torch.equal(weight, start[name]) for name, weight in left.items())
