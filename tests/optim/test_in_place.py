"""MeZO's own walk: the same steps as in the forward, three passes each, and the weights back after a failure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.helpers.words import IDS, Words, loss_of
from zolightning.errors import ConfigurationError
from zolightning.optim import Sparsity, ZerothOrderOptimizer
from zolightning.perturbation.directions import Directions
from zolightning.perturbation.options import Distribution, EngineOptions

LR, EPS = 1e-2, 1e-3
IN_PLACE = EngineOptions(probe="in_place")


def run(model: Words, steps: int, engine: EngineOptions, **settings: Any) -> ZerothOrderOptimizer:
    optimizer = ZerothOrderOptimizer(model, lr=LR, eps=EPS, seed=3, engine=engine, **settings)
    for _ in range(steps):
        optimizer.step(loss_of(model))
    return optimizer


def furthest(a: Words, b: Words) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("num_queries", [1, 3])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "sphere"])
def test_a_step_equals_the_one_in_the_forward(distribution: Distribution, num_queries: int) -> None:
    """Weights of size 1 round by 1e-16 a pass, which g has divided by eps: 1e-12 leaves room, and sees 1e-9 of eps."""
    start, mine, theirs = Words(), Words(), Words()
    ours = run(mine, 3, EngineOptions(distribution, "in_place"), num_queries=num_queries)
    reference = run(theirs, 3, EngineOptions(distribution), num_queries=num_queries)
    assert furthest(mine, theirs) < 1e-12
    assert furthest(mine, start) > 1e-4
    assert ours.last is not None
    assert reference.last is not None
    torch.testing.assert_close(ours.last.loss, reference.last.loss, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("both_paths")
def test_with_a_random_mask_too() -> None:
    mine, theirs = Words(), Words()
    sparsity = Sparsity(0.3, "random", mask_vectors=True)
    run(mine, 3, IN_PLACE, sparsity=sparsity)
    run(theirs, 3, EngineOptions(), sparsity=sparsity)
    assert furthest(mine, theirs) < 1e-12


@pytest.mark.parametrize("num_queries", [1, 3])
def test_decay_is_of_the_weights_where_the_last_probe_left_them(num_queries: int) -> None:
    """The merged pass decays theta - eps z in the place of theta: lr x decay x eps x |z| apart, |z| below 5."""
    mine, theirs = Words(), Words()
    run(mine, 1, IN_PLACE, num_queries=num_queries, weight_decay=0.1)
    run(theirs, 1, EngineOptions(), num_queries=num_queries, weight_decay=0.1)
    assert 1e-12 < furthest(mine, theirs) < LR * 0.1 * EPS * 5


@pytest.mark.parametrize("num_queries", [1, 3])
def test_a_step_takes_a_pass_for_each_probe_and_one_for_update_and_return(
    num_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, forwards = 0, 0
    subtract = Directions.subtract

    def counting(*arguments: Any) -> None:
        nonlocal passes
        passes += 1
        subtract(*arguments)

    monkeypatch.setattr(Directions, "subtract", counting)
    model = Words()
    optimizer = ZerothOrderOptimizer(model, lr=LR, eps=EPS, num_queries=num_queries, engine=IN_PLACE)
    for _ in range(2):
        passes = forwards = 0

        def loss() -> torch.Tensor:
            nonlocal forwards
            forwards += 1
            return loss_of(model)()

        optimizer.step(loss)
        assert passes == 2 * num_queries + 1
        assert forwards == 2 * num_queries


@pytest.mark.parametrize("at", [1, 2, 3])
def test_after_an_exception_the_weights_are_back_and_the_run_goes_on(at: int) -> None:
    model = Words()
    before, calls = copy.deepcopy(model), 0

    def fails() -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            raise RuntimeError("planted")
        return loss_of(model)()

    optimizer = ZerothOrderOptimizer(model, lr=LR, eps=EPS, seed=3, num_queries=2, engine=IN_PLACE)
    with pytest.raises(RuntimeError, match="planted"):
        optimizer.step(fails)
    assert furthest(model, before) < 1e-15
    assert optimizer.step_count == 0
    optimizer.step(loss_of(model))
    run(before, 1, IN_PLACE, num_queries=2)
    assert furthest(model, before) < 1e-12


def test_no_module_is_hooked_and_the_forward_sees_parameters() -> None:
    model = Words()
    parameters = dict(model.named_parameters())

    def loss() -> torch.Tensor:
        assert not any(module._forward_pre_hooks for module in model.modules())
        assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
        return loss_of(model)()

    ZerothOrderOptimizer(model, lr=LR, eps=EPS, engine=IN_PLACE).step(loss)


@pytest.mark.parametrize("score", ["magnitude", "large"])
def test_a_mask_by_magnitude_is_refused(score: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"in_place .* mask: random"):
        ZerothOrderOptimizer(Words(), lr=LR, eps=EPS, sparsity=Sparsity(0.2, score), engine=IN_PLACE)


def test_skipping_idle_rows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"idle_rows: skip needs engine\.probe: in_forward"):
        EngineOptions(probe="in_place", idle_rows="skip")


def twice(model: Words) -> Callable[[], torch.Tensor]:
    parts = loss_of(model, IDS[:2]), loss_of(model, IDS[1:])
    return lambda: parts[0]() + parts[1]()


def test_another_batch_of_the_same_step_sees_the_same_weights() -> None:
    """A closure may run the model several times."""
    mine, theirs = Words(), Words()
    for model, engine in ((mine, IN_PLACE), (theirs, EngineOptions())):
        optimizer = ZerothOrderOptimizer(model, lr=LR, eps=EPS, engine=engine)
        optimizer.step(twice(model))
    assert furthest(mine, theirs) < 1e-12
