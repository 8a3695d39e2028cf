"""Every strategy, on all weights and on adapters, in float32 and bfloat16, through the same laws."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.helpers.families import tiny
from tests.helpers.methods import EPS, METHODS, SEED
from tests.helpers.models import Quadratic, language_loss, tokens
from zolightning import strategies
from zolightning.journal import replay
from zolightning.journal.identity import describe, rebuild
from zolightning.optim import forward_mode, one_sided, two_sided
from zolightning.optim.estimators import Estimate, Estimator
from zolightning.optim.first_order import FirstOrderOptimizer
from zolightning.optim.hybrid import HybridOptimizer
from zolightning.optim.records import Record
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.perturbation import bundle
from zolightning.perturbation.shards import local_part
from zolightning.strategies import Strategy

BATCH = tokens()
every_method = pytest.mark.parametrize("name", METHODS)
every_scheme = pytest.mark.parametrize("scheme", ["full", "lora"])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def model_of(scheme: str, dtype: torch.dtype) -> nn.Module:
    # GPT-2, whose norms compute in the weights' precision.
    model = tiny("gpt2", dtype, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    if scheme == "full":
        return model
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, init_lora_weights=False)
    adapted: nn.Module = get_peft_model(model, config, autocast_adapter_dtype=False)
    return adapted.to(dtype)


def loss_of(model: nn.Module, *more: float) -> Callable[[], Tensor]:
    """Return a closure; its first losses are more by some numbers."""
    left = iter(more)
    return lambda: next(left, 0.0) + language_loss(model, BATCH)


def run(strategy: Strategy, model: nn.Module, steps: int, seed: int = SEED) -> Optimizer:
    strategy.setup(model)
    optimizer = strategy.configure_optimizer(model, seed)
    for _ in range(steps):
        strategy.training_step(optimizer, loss_of(model))
    return optimizer


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_no_strategy_is_left_out() -> None:
    concrete = {name for name in strategies.__all__ if not inspect.isabstract(getattr(strategies, name))}
    assert concrete - {"ZerothOrder"} == {type(method.make(1e-3)).__name__ for method in METHODS.values()}


@pytest.mark.parametrize(
    ("scheme", "limit"),
    [("full", bundle.LIMIT), ("full", 0), ("lora", 0)],
    ids=["full, together", "full, one by one", "lora"],
)
@every_method
def test_twenty_steps_are_those_of_the_formula(
    name: str, scheme: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "LIMIT", limit)
    method, lr = METHODS[name], METHODS[name].lr
    ours, theirs = model_of(scheme, torch.float64), model_of(scheme, torch.float64)
    kept: dict[str, Any] = {}
    strategy = method.make(lr)
    strategy.setup(theirs)
    run(strategy, ours, 20)
    for step in range(20):
        method.reference(theirs, loss_of(theirs), step, lr, kept)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-9)


@every_dtype
@every_scheme
@every_method
def test_it_descends(name: str, scheme: str, dtype: torch.dtype) -> None:
    model = model_of(scheme, dtype)
    with torch.no_grad():
        start = float(language_loss(model, BATCH))
        run(METHODS[name].make(METHODS[name].lr), model, 60)
        assert float(language_loss(model, BATCH)) < start - 0.02


@every_dtype
@every_scheme
@every_method
def test_a_resumed_run_is_the_run_and_frozen_parameters_stay(name: str, scheme: str, dtype: torch.dtype) -> None:
    """To the bit: states in their own dtype, directions, masks and blocks by the step."""
    strategy, whole, parts = METHODS[name].make(1e-2), model_of(scheme, dtype), model_of(scheme, dtype)
    before = weights(whole)
    run(strategy, whole, 6)
    saved = copy.deepcopy(run(strategy, parts, 3).state_dict())
    resumed = strategy.configure_optimizer(parts, 0)
    resumed.load_state_dict(saved)
    for _ in range(3):
        strategy.training_step(resumed, loss_of(parts))
    assert same(weights(whole), weights(parts))
    assert not same(weights(whole), before)
    assert all(torch.equal(p, before[key]) for key, p in whole.named_parameters() if not p.requires_grad)


@every_dtype
@every_scheme
@every_method
def test_a_run_is_its_scalars(name: str, scheme: str, dtype: torch.dtype) -> None:
    """Taken again from what each step's record tells, weights and state are the run's, to the bit; no forward runs."""
    strategy, model, again = METHODS[name].make(1e-2), model_of(scheme, dtype), model_of(scheme, dtype)
    strategy.setup(model)
    optimizer = strategy.configure_optimizer(model, SEED)
    if not isinstance(optimizer, ZerothOrderOptimizer) or optimizer.irreproducible:
        pytest.skip("it has no journal")
    records, losses, rate = [], [], 1e-2
    for step in range(5):
        rate *= 0.9
        for group in optimizer.param_groups:
            group["lr"] = rate
        # The third step is skipped, or, block by block, part of it.
        losses.append(optimizer.step(loss_of(model, *[torch.nan] * (step == 2))))
        assert optimizer.taken is not None
        assert optimizer.taken.factors.numel() == optimizer.factors_a_step
        assert bool(optimizer.taken.factors.isnan().any()) == (step == 2)
        records.append(Record(step, rate, float(losses[-1]), tuple(optimizer.taken.factors.tolist())))
    strategy.setup(again)
    other = rebuild(again, describe(optimizer))
    replay(other, records)
    assert same(weights(model), weights(again))
    assert other.step_count == 5
    # What is taken again is in no row of skipped steps.
    assert other.guard.counts.tolist() == [int(optimizer.guard.counts[0]), 0, 0]
    for parameter, twin in zip(model.parameters(), again.parameters(), strict=True):
        for key, kept in optimizer.state[parameter].items():
            if key != "step":
                assert torch.equal(kept, other.state[twin][key])


@every_dtype
@every_scheme
@every_method
def test_the_seed_makes_the_run(name: str, scheme: str, dtype: torch.dtype) -> None:
    def after(seed: int) -> dict[str, Tensor]:
        model = model_of(scheme, dtype)
        run(METHODS[name].make(1e-2), model, 3, seed)
        return weights(model)

    assert same(after(1), after(1))
    assert same(after(1), after(2)) == name.startswith("FO")


@every_dtype
@every_scheme
@every_method
def test_state_is_what_is_documented(name: str, scheme: str, dtype: torch.dtype) -> None:
    """In float32 whatever the weights are, but for backpropagation, whose optimizers are torch's."""
    method, model = METHODS[name], model_of(scheme, dtype)
    optimizer = run(method.make(1e-3), model, 1)
    parts: list[Any] = [optimizer.zeroth, optimizer.first] if isinstance(optimizer, HybridOptimizer) else [optimizer]
    held = expected = 0.0
    for part in parts:
        width = dtype.itemsize if isinstance(part, FirstOrderOptimizer) else 4
        expected += method.state * width * sum(p.numel() for group in part.param_groups for p in group["params"])
        values = [value for state in part.state.values() for value in state.values() if isinstance(value, Tensor)]
        held += sum(value.numel() * value.element_size() for value in values if value.ndim > 0)
    # Bits are kept in whole units of 2,048, and one more of each matrix.
    slack = 512 * len(list(model.parameters())) if method.state == 1 / 32 else 0
    assert abs(held - expected) <= slack


def test_one_query_of_two_is_one_query() -> None:
    """With the second projected gradient zero, and twice the learning rate for their mean."""

    def first_of_two(prober: Any, closure: Callable[[], Tensor], num_queries: int) -> Estimate:
        found = two_sided(prober, closure, num_queries)
        return replace(found, projected_gradients=found.projected_gradients * torch.tensor([1.0, 0.0]))

    one, other = model_of("full", torch.float32), model_of("full", torch.float32)
    optimizers = [
        ZerothOrderOptimizer(one, lr=1e-2, eps=EPS, seed=SEED),
        ZerothOrderOptimizer(other, lr=2e-2, eps=EPS, seed=SEED, num_queries=2, estimator=first_of_two),
    ]
    for optimizer, model in zip(optimizers, (one, other), strict=True):
        for _ in range(3):
            optimizer.step(loss_of(model))
    assert same(weights(one), weights(other))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [two_sided, one_sided, forward_mode])
def test_the_mean_of_estimates_is_the_gradient(estimator: Estimator) -> None:
    """Within five standard errors of each element; the curvature, even in z, is in a one-sided one's variance alone."""
    model = Quadratic()
    optimizer = ZerothOrderOptimizer(model, lr=0.0, eps=EPS, num_queries=5_000, seed=SEED, estimator=estimator)
    torch.autograd.backward(model())
    # Before the step: after it they are the next one's.
    places = optimizer.places()
    optimizer.step(model)
    assert optimizer.last is not None
    for name, p in model.named_parameters():
        assert p.grad is not None
        total, square = torch.zeros_like(p), torch.zeros_like(p)
        for place, g in zip(places, optimizer.last.projected_gradients, strict=True):
            term = g * optimizer.engine.directions.small(name, local_part(p), place).view(p.shape)
            total += term
            square += term * term
        mean = total / len(places)
        error = ((square / len(places) - mean * mean) / len(places)).sqrt()
        assert ((mean - p.grad).abs() <= 5 * error).all(), name
