"""Laws that hold whatever the distribution, dtype, strategy and way of probing."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.helpers.words import Words, loss_of
from zolightning.optim import ZerothOrderOptimizer
from zolightning.perturbation.masks import Score
from zolightning.perturbation.options import Distribution, EngineOptions, ProbeMode
from zolightning.strategies import ZOSGD, SparseMeZO

LR, EPS = 1e-2, 1e-2
# How far z goes in these few thousand numbers, the sphere's radius included.
FURTHEST = 5.0


@dataclass(frozen=True)
class Setting:
    """One way to run."""

    distribution: Distribution
    dtype: torch.dtype
    sparse: bool
    probe: ProbeMode

    def optimizer(self, model: Words, lr: float = LR, seed: int = 8) -> ZerothOrderOptimizer:
        """Return the optimizer of a strategy as recipes configure it."""
        engine = EngineOptions(distribution=self.distribution, probe=self.probe)
        decay = 0.1
        if not self.sparse:
            return ZOSGD(lr, EPS, weight_decay=decay, engine=engine).configure_optimizer(model, seed)
        # In-place probes move the weights, so that a mask by magnitude would not hold still.
        mask: Score = "random" if self.probe == "in_place" else "magnitude"
        return SparseMeZO(lr, EPS, 0.3, mask, weight_decay=decay, engine=engine).configure_optimizer(model, seed)


DISTRIBUTIONS: tuple[Distribution, ...] = ("gaussian", "rademacher", "sphere")
PROBES: tuple[ProbeMode, ...] = ("in_forward", "in_place")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MATRIX = [Setting(*one) for one in itertools.product(DISTRIBUTIONS, DTYPES, (False, True), PROBES)]
NAMES = [
    f"{one.distribution}-{str(one.dtype).removeprefix('torch.')}-{'sparse' if one.sparse else 'dense'}-{one.probe}"
    for one in MATRIX
]
every_setting = pytest.mark.parametrize("setting", MATRIX, ids=NAMES)
both_paths = pytest.mark.usefixtures("both_paths")


def run(model: Words, optimizer: ZerothOrderOptimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.step(loss_of(model))
    assert optimizer.guard.counts[0] == 0


def bits(model: Words) -> list[Tensor]:
    """Return copies of the weights as integers, which tell zero from minus zero."""
    integer = torch.int32 if model.table.weight.dtype == torch.float32 else torch.int16
    return [parameter.detach().clone().view(integer) for parameter in model.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def check_within_rounding(setting: Setting, model: Words, start: Words, steps: int) -> None:
    """Check that weights are where they were: to the bit, or in place within what three roundings a step do."""
    if setting.probe == "in_forward":
        assert same(bits(model), bits(start))
        return
    for weight, before in zip(model.parameters(), start.parameters(), strict=True):
        size = before.detach().double().abs() + EPS * FURTHEST
        apart = (weight.detach().double() - before.detach().double()).abs()
        assert bool((apart <= 3 * steps * torch.finfo(setting.dtype).eps * size).all())


@both_paths
@every_setting
def test_a_learning_rate_of_zero_changes_nothing(setting: Setting) -> None:
    model, start = Words(setting.dtype), Words(setting.dtype)
    for one in (model, start):
        one.linear.weight.detach()[0, :4] = torch.tensor([0.0, -0.0, 1e-7, -1e-7])
    run(model, setting.optimizer(model, lr=0.0), 3)
    check_within_rounding(setting, model, start, 3)


@both_paths
@every_setting
def test_a_seed_makes_the_run_and_resuming_goes_on_with_it(setting: Setting) -> None:
    whole, other, first, second = (Words(setting.dtype) for _ in range(4))
    run(whole, setting.optimizer(whole), 3)
    run(other, setting.optimizer(other, seed=9), 1)
    optimizer = setting.optimizer(first)
    run(first, optimizer, 1)
    assert not same(bits(first), bits(other))
    weights, state = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second.load_state_dict(weights)
    resumed = setting.optimizer(second, seed=0)
    resumed.load_state_dict(state)
    run(second, resumed, 2)
    assert same(bits(whole), bits(second))


def spoilt(loss: Callable[[], Tensor], probe: int, bad: float) -> Callable[[], Tensor]:
    """Return a closure of which one forward in two, the first or the second, is not finite."""
    calls = itertools.count()
    return lambda: loss() * (bad if next(calls) % 2 == probe else 1.0)


@every_setting
def test_a_loss_that_is_not_finite_changes_nothing_and_is_counted(setting: Setting) -> None:
    model, start = Words(setting.dtype), Words(setting.dtype)
    optimizer = setting.optimizer(model)
    optimizer.check(loss_of(model))
    for probe, bad in ((0, float("nan")), (1, float("inf"))):
        optimizer.step(spoilt(loss_of(model), probe, bad))
    assert optimizer.guard.counts.tolist() == [2, 2, 2]
    check_within_rounding(setting, model, start, 2)
    optimizer.step(loss_of(model))
    assert optimizer.guard.counts.tolist() == [2, 0, 2]
    assert not same(bits(model), bits(start))
