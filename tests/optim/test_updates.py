"""Every update against a few lines written from its formula, in float64, with every direction materialised."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.methods import Kept, Loss, Move, Parts, adam, best_of_three, itself, momentum, signs
from tests.helpers.models import Quadratic, language_loss, tiny_llama, tokens
from tests.helpers.reference import direction, estimate_of
from zolightning.errors import ConfigurationError
from zolightning.optim import Adam, Elementwise, Momentum, Rule, Sign, Sparsity, ZerothOrderOptimizer
from zolightning.optim.estimators import Sides
from zolightning.perturbation import bundle
from zolightning.perturbation.options import EngineOptions, ProbeMode
from zolightning.strategies import (
    FOSGD,
    ZOSGD,
    BlockwiseZO,
    HybridZOFO,
    ZerothOrder,
    ZOAdam,
    ZOSGDConservative,
    ZOSGDMomentum,
    ZOSGDSign,
)

SEED, LR, EPS, DECAY = 7, 3e-3, 1e-3, 0.1
Moved = Callable[[nn.Module, Loss, Parts, Tensor, Kept], Parts]

both_paths = pytest.mark.usefixtures("both_paths")


def by(move: Move) -> Moved:
    """Return the move of a method that asks for no more than the estimate."""
    return lambda _model, _loss, estimate, projected, kept: move(estimate, projected, kept)


def conservative(model: nn.Module, loss: Loss, estimate: Parts, _projected: Tensor, _kept: Kept) -> Parts:
    return best_of_three(model, loss, estimate, LR)


ADAM = {"betas": (0.9, 0.99), "adam_eps": 1e-6}
UPDATES: dict[str, tuple[type[ZerothOrder], dict[str, Any], Moved]] = {
    "descent": (ZOSGD, {}, by(itself)),
    "sign": (ZOSGDSign, {}, by(signs)),
    "momentum": (ZOSGDMomentum, {"momentum": 0.8}, by(momentum(0.8))),
    "adam": (ZOAdam, ADAM, by(adam((0.9, 0.99), 1e-6))),
    "conservative": (ZOSGDConservative, {}, conservative),
}


def configured(strategy: ZerothOrder, model: nn.Module, seed: int = SEED) -> ZerothOrderOptimizer:
    return strategy.configure_optimizer(model, seed)


def reference_step(
    model: nn.Module, loss: Loss, move: Moved, kept: Kept, step: int, masks: Parts | None, **settings: Any
) -> None:
    """Take theta <- theta - lr (move(ghat) + weight_decay theta) inside of the masks."""
    estimate, projected = estimate_of(model, loss, seed=SEED, step=step, eps=EPS, masks=masks, **settings)
    with torch.no_grad():
        moves = move(model, loss, estimate, projected, kept)
        for name, p in model.named_parameters():
            change = LR * (moves[name] + (DECAY * p if p.ndim > 1 else 0.0))
            p.sub_(change * masks[name] if masks and name in masks else change)


def same(one: nn.Module, other: nn.Module, tolerance: float = 1e-9) -> None:
    for mine, reference in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=tolerance)


@both_paths
@pytest.mark.parametrize("settings", [{}, {"num_queries": 3}, {"num_queries": 2, "one_sided": True}])
@pytest.mark.parametrize("name", UPDATES)
def test_twenty_steps_equal_the_formula(name: str, settings: dict[str, Any]) -> None:
    kind, own, move = UPDATES[name]
    ours, theirs = Quadratic(), Quadratic()
    kept: Kept = {}
    estimator: Sides = "one_sided" if settings.get("one_sided") else "two_sided"
    strategy = kind(LR, EPS, weight_decay=DECAY, num_queries=settings.get("num_queries", 1), estimator=estimator, **own)
    optimizer = configured(strategy, ours)
    start = float(ours())
    for step in range(20):
        optimizer.step(ours)
        reference_step(theirs, theirs, move, kept, step, None, **settings)
    same(ours, theirs)
    assert float(ours()) < start, "it descends"


@both_paths
@pytest.mark.parametrize("name", UPDATES)
def test_outside_of_a_mask_nothing_moves(name: str) -> None:
    kind, own, move = UPDATES[name]
    ours, theirs, batch = tiny_llama(torch.float64), tiny_llama(torch.float64), tokens()
    kept: Kept = {}
    strategy = kind(LR, EPS, weight_decay=DECAY, **own)
    strategy.sparse = Sparsity(0.4)
    optimizer = configured(strategy, ours)
    matrices = {name: p for name, p in theirs.named_parameters() if p.ndim > 1}
    levels = {n: p.detach().abs().flatten().sort().values[round(0.4 * p.numel()) - 1] for n, p in matrices.items()}
    for step in range(5):
        masks = {name: p.detach().abs() <= levels[name] for name, p in matrices.items()}
        optimizer.step(lambda: language_loss(ours, batch))
        reference_step(theirs, lambda: language_loss(theirs, batch), move, kept, step, masks)
    same(ours, theirs)


def test_the_scalar_sign_moves_along_the_direction_by_the_learning_rate() -> None:
    ours, theirs = Quadratic(), Quadratic()
    configured(ZOSGDSign(LR, EPS, sign="scalar"), ours).step(ours)
    _, projected = estimate_of(theirs, theirs, seed=SEED, step=0, eps=EPS)
    z = direction(theirs, SEED, 0, 0)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.sub_(LR * projected[0].sign() * z[name])
    same(ours, theirs)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_the_run(name: str, dtype: torch.dtype) -> None:
    """To the bit: torch would cast moments to the weights' dtype on loading."""
    kind, own, _ = UPDATES[name]
    whole, parts = tiny_llama(dtype), tiny_llama(dtype)
    strategy, batch = kind(1e-2, EPS, weight_decay=DECAY, **own), tokens()
    runs = [configured(strategy, model) for model in (whole, parts)]
    for _ in range(4):
        runs[0].step(lambda: language_loss(whole, batch))
    for _ in range(2):
        runs[1].step(lambda: language_loss(parts, batch))
    resumed = configured(strategy, parts, seed=0)
    resumed.load_state_dict(runs[1].state_dict())
    for _ in range(2):
        resumed.step(lambda: language_loss(parts, batch))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


@pytest.mark.parametrize("name", UPDATES)
def test_a_loss_that_is_not_finite_leaves_weights_and_state_alone(name: str) -> None:
    kind, own, _ = UPDATES[name]
    model, clean = Quadratic(), Quadratic()
    strategy = kind(LR, EPS, weight_decay=DECAY, **own)
    optimizer, other = configured(strategy, model), configured(strategy, clean)
    optimizer.step(model)
    other.step(clean)
    optimizer.step(lambda: model() * float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), clean.parameters(), strict=True))
    for p, q in zip(model.parameters(), clean.parameters(), strict=True):
        for key in set(optimizer.state[p]) - {"step"}:
            assert torch.equal(optimizer.state[p][key], other.state[q][key])


def test_in_place_probes_are_home_before_an_elementwise_update() -> None:
    models = [Quadratic(), Quadratic()]
    probes: tuple[ProbeMode, ...] = ("in_forward", "in_place")
    for model, probe in zip(models, probes, strict=True):
        optimizer = configured(ZOAdam(LR, EPS, engine=EngineOptions(probe=probe)), model)
        for _ in range(5):
            optimizer.step(model)
    # What in-place probes leave in float64, through a root of small second moments.
    same(models[0], models[1], tolerance=1e-8)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="in_forward"):
        ZOSGDConservative(LR, EPS, engine=EngineOptions(probe="in_place")).configure(Quadratic())
    with pytest.raises(ConfigurationError, match="idle_rows"):
        ZOAdam(LR, EPS, engine=EngineOptions(idle_rows="skip")).configure(Quadratic())
    with pytest.raises(ConfigurationError, match="momentum"):
        Momentum(1.0)
    with pytest.raises(ConfigurationError, match="betas"):
        Adam((0.9, 1.0))
    with pytest.raises(ConfigurationError, match="adam_eps"):
        Adam(adam_eps=-1.0)


@pytest.mark.parametrize(
    ("strategy", "numbers"), [(ZOSGD(LR, EPS), 0), (ZOSGDMomentum(LR, EPS), 1), (ZOAdam(LR, EPS), 2)]
)
def test_state_is_float32_whatever_the_weights(strategy: ZerothOrder, numbers: int) -> None:
    model = tiny_llama(torch.bfloat16)
    optimizer = strategy.configure(model)
    for p in model.parameters():
        kept = [value for key, value in optimizer.state[p].items() if key not in {"step", "age"}]
        assert [(value.dtype, value.shape) for value in kept] == [(torch.float32, p.shape)] * numbers


@pytest.mark.parametrize(
    ("make", "needed"),
    [
        (lambda: ZOSGD(math.inf, EPS), "lr"),
        (lambda: ZOSGD(LR, math.nan), "eps"),
        (lambda: ZOSGD(LR, EPS, num_queries=cast("int", 1.5)), "num_queries must be a whole number"),
        (lambda: ZOSGD(LR, EPS, estimator=cast("Any", "both")), "estimator must be one of two_sided, one_sided"),
        (lambda: ZOSGD(LR, EPS, mask=cast("Any", "small"), sparsity=0.5), "mask must be one of magnitude"),
        (lambda: ZOSGDSign(LR, EPS, sign=cast("Any", "x")), "sign must be one of"),
        (lambda: BlockwiseZO(ZOSGD(LR, EPS), order=cast("Any", "reverse")), "order must be one of sequential, joint"),
        (lambda: BlockwiseZO(cast("Any", FOSGD(LR))), "method must be a ZerothOrder strategy.*FOSGD"),
        (lambda: HybridZOFO(cast("Any", FOSGD(LR)), FOSGD(LR)), "zeroth must be a ZerothOrder strategy.*FOSGD"),
        (lambda: EngineOptions(compiled=cast("Any", "yes")), "engine.compiled must be one of"),
    ],
)
def test_a_value_that_is_none_of_those_allowed_is_refused(make: Callable[[], object], needed: str) -> None:
    with pytest.raises(ConfigurationError, match=needed):
        make()


def test_a_checkpoint_of_another_update_is_refused() -> None:
    saved = configured(ZOSGDSign(LR, EPS, sign="scalar"), Quadratic()).state_dict()
    with pytest.raises(ConfigurationError, match=r"kept nothing.*needs age"):
        configured(ZOAdam(LR, EPS), Quadratic()).load_state_dict(saved)


def test_a_rule_is_a_value() -> None:
    assert Adam(cast("Any", [0.9, 0.99])) == Adam((0.9, 0.99))

    @dataclass
    class Changing:
        states: tuple[str, ...] = ()

    with pytest.raises(ConfigurationError, match="frozen dataclass"):
        Elementwise(cast("Any", Changing()))


def test_a_candidate_whose_loss_is_not_finite_is_not_taken() -> None:
    model = Quadratic()
    optimizer = configured(ZOSGDConservative(LR, EPS), model)
    optimizer.check(model)
    before, calls = [p.detach().clone() for p in model.parameters()], [0]

    def loss() -> Tensor:
        calls[0] += 1
        # Two probes, here, and two candidates.
        value: Tensor = model()
        return value + (-math.inf if calls[0] > 3 else 0.0)

    optimizer.step(loss)
    assert calls[0] == 5
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Sign(), Momentum(0.9), Adam()], ids=lambda rule: type(rule).__name__)
def test_a_compiled_rule_is_the_eager_one(rule: Rule) -> None:
    """As far as the noise is, to 2e-6 relative, with which the losses differ, and the states by their difference."""

    def trained(compiled: bool) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        model = nn.Linear(64, 129)
        engine = EngineOptions(compiled=compiled)
        optimizer = ZerothOrderOptimizer(
            model, lr=1e-2, eps=1e-3, update=Elementwise(rule), sparsity=Sparsity(0.6), weight_decay=0.1, engine=engine
        )
        data = torch.ones(3, 64)
        for _ in range(3):
            optimizer.step(lambda: model(data).square().mean())
        return model.weight.detach(), [optimizer.state[model.weight][name] for name in rule.states]

    with mock.patch.object(bundle, "LIMIT", 0):
        (ours, states), (theirs, others) = trained(True), trained(False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    for state, other in zip(states, others, strict=True):
        torch.testing.assert_close(state, other, rtol=1e-3, atol=1e-2)
