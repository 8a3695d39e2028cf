"""Block-wise steps: how a model is cut, and each block against the formula."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
import torch
from torch import nn

from tests.helpers.families import SIZES, tiny
from tests.helpers.models import language_loss, tiny_llama, tokens
from tests.helpers.reference import direction
from zolightning.errors import ConfigurationError
from zolightning.optim import ZerothOrderOptimizer
from zolightning.optim.blocks import Blocks, Granularity, Order, partition
from zolightning.perturbation.options import EngineOptions, ProbeMode
from zolightning.strategies import ZOSGD, BlockwiseZO, Strategy, ZOAdam, ZOSGDConservative

LR, EPS, SEED = 1e-2, 1e-3, 3
GRANULARITIES: tuple[Granularity, ...] = ("layer", "half_layer", "linear")


def names_of(model: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("family", ["opt", "llama", "mistral", "roberta", "gpt2", "qwen3"])
def test_blocks_cover_every_parameter_once(family: str, granularity: Granularity) -> None:
    settings: dict[str, Any] = dict(SIZES) if family == "roberta" else {}
    model = tiny(family, **settings)
    blocks = partition(model, names_of(model), granularity)
    held = Counter(name for block in blocks for name in block)
    assert held == Counter(name for name, _ in model.named_parameters())
    layers = cast("Any", model).config.num_hidden_layers
    holders = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    outside = len(partition(model, names_of(model), "layer")) - layers
    assert 2 <= outside <= 8, "embeddings, last norm and head are blocks of their own"
    assert (
        len(blocks)
        == {
            "layer": outside + layers,
            "half_layer": outside + 2 * layers,
            "linear": len({id(p) for m in holders for p in [next(m.parameters(recurse=False))]}),
        }[granularity]
    )


@torch.no_grad()
def reference_step(model: nn.Module, batch: torch.Tensor, order: Order, step: int, blocks: list[Any]) -> None:
    """Take theta_b <- theta_b - lr g_b z_b for each block."""
    parameters, later = dict(model.named_parameters()), []
    z = direction(model, SEED, step, 0)
    for block in blocks:
        start, losses = {name: parameters[name].clone() for name in block}, []
        for sign in (1, -1):
            for name in block:
                parameters[name].copy_(start[name] + sign * EPS * z[name])
            losses.append(language_loss(model, batch))
        g = (losses[0] - losses[1]) / (2 * EPS)
        for name in block:
            parameters[name].copy_(start[name])
            later.append((name, LR * g * z[name]))
        if order == "sequential":
            for name, change in later:
                parameters[name].sub_(change)
            later.clear()
    for name, change in later:
        parameters[name].sub_(change)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("probe", ["in_forward", "in_place"])
@pytest.mark.parametrize("order", ["sequential", "joint"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_each_block_steps_by_the_formula(granularity: Granularity, order: Order, probe: ProbeMode) -> None:
    ours, theirs, batch = tiny_llama(torch.float64), tiny_llama(torch.float64), tokens()
    method = ZOSGD(LR, EPS, engine=EngineOptions(probe=probe))
    optimizer = BlockwiseZO(method, granularity, order).configure(ours, seed=SEED)
    assert isinstance(optimizer, ZerothOrderOptimizer)
    for step in range(3):
        optimizer.step(lambda: language_loss(ours, batch))
        reference_step(theirs, batch, order, step, list(optimizer.blocks))
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-9)
    assert optimizer.last is not None
    assert optimizer.last.projected_gradients.numel() == len(optimizer.blocks)


@pytest.mark.parametrize("choice", ["cycle", "sample"])
def test_a_step_may_work_on_some_blocks(choice: Any) -> None:
    plan, blocks = Blocks(blocks_per_step=2, choice=choice), [(str(number),) for number in range(5)]
    chosen = [plan.of_step(blocks, step, seed=1) for step in range(200)]
    assert all(len(set(one)) == 2 for one in chosen)
    assert chosen == [plan.of_step(blocks, step, seed=1) for step in range(200)]
    often = Counter(block for one in chosen for block in one)
    assert len(often) == 5
    assert all(40 <= number <= 120 for number in often.values())


def test_what_is_not_in_the_block_does_not_move() -> None:
    model, batch = tiny_llama(), tokens()
    optimizer = BlockwiseZO(ZOAdam(LR, EPS), blocks_per_step=1).configure(model, seed=SEED)
    assert isinstance(optimizer, ZerothOrderOptimizer)
    for step in range(3):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step(lambda: language_loss(model, batch))
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert moved == set(optimizer.blocks[step % len(optimizer.blocks)])


def test_a_block_s_adam_counts_its_own_updates() -> None:
    """A cycle of blocks is Adam on each alone: moments are corrected by the updates that they had."""
    ours, theirs, batch = tiny_llama(torch.float64), tiny_llama(torch.float64), tokens()
    optimizer = BlockwiseZO(ZOAdam(LR, EPS), blocks_per_step=1).configure(ours, seed=SEED)
    assert isinstance(optimizer, ZerothOrderOptimizer)
    blocks = optimizer.blocks
    kept: dict[str, Any] = {}
    parameters: dict[str, nn.Parameter] = dict(theirs.named_parameters())
    for step in range(2 * len(blocks) + 1):
        optimizer.step(lambda: language_loss(ours, batch))
        block, age = blocks[step % len(blocks)], step // len(blocks) + 1
        z, losses = direction(theirs, SEED, step, 0), []
        with torch.no_grad():
            for sign in (1, -2, 1):
                for name in block:
                    parameters[name].add_(sign * EPS * z[name])
                losses.append(language_loss(theirs, batch))
            for name in block:
                g = (losses[0] - losses[1]) / (2 * EPS) * z[name]
                m, v = kept.get(name, (0.0, 0.0))
                kept[name] = m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                parameters[name].sub_(LR * (m / (1 - 0.9**age)) / ((v / (1 - 0.999**age)).sqrt() + 1e-8))
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-8)


def test_a_deferred_conservative_step_looks_where_it_is() -> None:
    """Its loss at the weights is of before the other blocks moved: another forward a block finds it anew."""
    model, batch, calls = tiny_llama(), tokens(), [0]
    method = ZOSGDConservative(LR, EPS, estimator="one_sided")
    for order, forwards in (("sequential", 4), ("joint", 5)):
        optimizer = BlockwiseZO(method, order=cast("Order", order)).configure(model, seed=SEED)
        assert isinstance(optimizer, ZerothOrderOptimizer)
        with torch.no_grad():
            optimizer.check(lambda: language_loss(model, batch))
        calls[0] = 0

        def loss() -> torch.Tensor:
            calls[0] += 1
            return language_loss(model, batch)

        optimizer.step(loss)
        assert calls[0] == forwards * len(optimizer.blocks)


@pytest.mark.parametrize("order", ["sequential", "joint"])
def test_a_block_whose_loss_is_not_finite(order: Order) -> None:
    """It stays; with joint updates all stay."""
    model, batch, calls = tiny_llama(), tokens(), [0]
    optimizer = BlockwiseZO(ZOSGD(LR, EPS), order=order).configure(model, seed=SEED)
    assert isinstance(optimizer, ZerothOrderOptimizer)
    optimizer.check(lambda: language_loss(model, batch))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss() -> torch.Tensor:
        calls[0] += 1
        return language_loss(model, batch) * (float("nan") if calls[0] == 3 else 1.0)

    optimizer.step(loss)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    expected = set(before) - set(optimizer.blocks[1]) if order == "sequential" else set()
    assert moved == expected
    assert optimizer.guard.counts.tolist() == [1, 1, 1]


def test_the_method_s_hooks_are_called() -> None:
    """All of them, whatever hooks strategies come to have."""
    hooks = {name for name, value in vars(Strategy).items() if callable(value) and not name.startswith("_")}
    assert hooks - {"configure"} <= vars(BlockwiseZO).keys()


def test_a_number_of_blocks_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="blocks_per_step"):
        BlockwiseZO(ZOSGD(LR, EPS), blocks_per_step=0)
