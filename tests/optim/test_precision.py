"""Updates of half-precision weights: stochastic rounding keeps what nearest rounding loses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.helpers.models import language_loss, tiny_llama, tokens
from tests.helpers.reference import direction
from zolightning.optim import ZerothOrderOptimizer
from zolightning.perturbation.options import Distribution, EngineOptions
from zolightning.perturbation.rounding import Rounding
from zolightning.strategies import ZOSGD, SparseMeZO, ZerothOrder, ZOAdam


def kept(rounding: Rounding, distribution: Distribution) -> float:
    """Return how much of an update of 1e-6 z to weights of some 0.04 is there, along z: 1 is all of it."""
    torch.manual_seed(0)
    model = nn.Linear(512, 512, bias=False, dtype=torch.bfloat16)
    start = model.weight.detach().clone()
    engine = EngineOptions(distribution=distribution, rounding=rounding)
    optimizer = ZerothOrderOptimizer(model, lr=1e-6, eps=1e-3, engine=engine)
    sides = iter([1.0, 1.002, 1.0])  # The self-check's, and g = 1.
    optimizer.step(lambda: 0 * model(torch.zeros(1, 512, dtype=torch.bfloat16)).sum().float() + next(sides))
    z = direction(model, 0, 0, 0, distribution)["weight"]
    change = (model.weight.detach() - start).float()
    return float((change * z).sum() / (-1e-6 * (z * z).sum()))


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_stochastic_rounding_keeps_small_updates_that_nearest_loses(distribution: Distribution) -> None:
    # An element moves by its spacing, some 1e-4, once in a hundred: over 2^18 of them the sum is within 3 % at 1 sigma.
    assert abs(kept("stochastic", distribution) - 1) < 0.12
    assert abs(kept("nearest", distribution)) < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("strategy", [ZOSGD(1e-6, 1e-3), SparseMeZO(1e-6, 1e-3, 0.2), ZOAdam(1e-6, 1e-3)])
def test_a_step_never_waits_for_the_device(strategy: ZerothOrder) -> None:
    """After the first, which makes what is kept and checks the model."""
    model: nn.Module = tiny_llama(torch.bfloat16)
    model, batch = model.cuda(), tokens().cuda()
    optimizer = strategy.configure_optimizer(model, seed=0)
    optimizer.step(lambda: language_loss(model, batch))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            optimizer.step(lambda: language_loss(model, batch))
    finally:
        torch.cuda.set_sync_debug_mode("default")
