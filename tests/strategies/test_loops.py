"""Strategies in a bare PyTorch loop and in Fabric: no LightningModule, no Trainer."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from tests.helpers.models import language_loss, tiny_llama, tokens
from zolightning.errors import ConfigurationError
from zolightning.strategies import FOSGD, ZOSGD, FOAdam, SparseMeZO, Strategy

EVERY: list[Strategy] = [
    ZOSGD(lr=1e-3, eps=1e-3),
    ZOSGD(lr=1e-3, eps=1e-3, num_queries=4, weight_decay=1e-3),
    SparseMeZO(lr=2e-3, eps=1e-3, keep_ratio=0.5),
    SparseMeZO(lr=1e-3, eps=1e-3, keep_ratio=0.5, mask="random", mask_vectors=True),
    FOSGD(lr=1e-2, momentum=0.9),
    FOAdam(lr=1e-2, weight_decay=1e-2, clip_norm=1.0),
]


def regression() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    data = torch.randn(64, 8)
    return model, data, data[:, :1] * 2


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: type(s).__name__)
def test_a_bare_loop_descends(strategy: Strategy) -> None:
    model, data, target = regression()
    optimizer = strategy.configure(model, seed=0)
    losses = [
        float(strategy.training_step(optimizer, lambda: nn.functional.mse_loss(model(data), target)))
        for _ in range(300)
    ]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: type(s).__name__)
def test_same_seed_same_run(strategy: Strategy) -> None:
    def run(seed: int) -> Tensor:
        model, data, target = regression()
        optimizer = strategy.configure(model, seed=seed)
        for _ in range(5):
            strategy.training_step(optimizer, lambda: nn.functional.mse_loss(model(data), target))
        return nn.utils.parameters_to_vector(model.parameters()).detach()

    assert torch.equal(run(1), run(1))
    assert torch.equal(run(1), run(2)) == isinstance(strategy, FOSGD | FOAdam)


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: type(s).__name__)
def test_fabric_takes_the_same_steps_as_a_bare_loop(strategy: Strategy) -> None:
    def run(fabric: Fabric | None) -> Tensor:
        network, batch = tiny_llama(), tokens()
        optimizer = strategy.configure(network, seed=3)
        model: nn.Module = network
        if fabric is not None:
            model, optimizer = fabric.setup(network, optimizer)
        for _ in range(4):
            strategy.training_step(optimizer, lambda: language_loss(model, batch))
        return nn.utils.parameters_to_vector(network.parameters()).detach()

    assert torch.equal(run(Fabric(accelerator="cpu", devices=1)), run(None))


def test_schedulers_of_torch_work() -> None:
    model, data, target = regression()
    optimizer = ZOSGD(lr=1e-2, eps=1e-3).configure_optimizer(model, seed=0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    for moves in (True, False):
        before = nn.utils.parameters_to_vector(model.parameters()).clone()
        optimizer.step(lambda: nn.functional.mse_loss(model(data), target))
        scheduler.step()
        assert torch.equal(before, nn.utils.parameters_to_vector(model.parameters())) != moves


def test_zeroth_order_turns_dropout_off_and_first_order_on() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    FOAdam(lr=1e-3).configure(model)
    assert model.training
    ZOSGD(lr=1e-3, eps=1e-3).configure(model)
    assert not model.training


def test_an_own_strategy_must_make_an_optimizer() -> None:
    unfinished = type("Unfinished", (Strategy,), {})
    with pytest.raises(TypeError, match="configure_optimizer"):
        unfinished()


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"lr": 1.0, "momentum": 1.0}, {"lr": 1.0, "clip_norm": 0.0}])
def test_first_order_numbers_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        FOSGD(**settings)


def test_adam_betas_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="betas"):
        FOAdam(lr=1.0, betas=(0.9, 1.0))
