"""ZerothOrderOptimizer against ten-line references written from the formulas, and against autograd."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.models import Quadratic, language_loss, tiny_llama, tokens
from tests.helpers.reference import spsa_step
from zolightning.optim import Sparsity, ZerothOrderOptimizer
from zolightning.perturbation.options import Distribution, EngineOptions

both_paths = pytest.mark.usefixtures("both_paths")

SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_queries": 3},
    {"weight_decay": 0.1},
    {"num_queries": 2, "weight_decay": 0.01},
]


@both_paths
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "sphere"])
def test_quadratic_equals_the_reference(distribution: Distribution, settings: dict[str, Any]) -> None:
    """Float64 throughout, but for the sphere's radius, of which float32 sums leave a relative error of 1e-7."""
    ours, theirs = Quadratic(), Quadratic()
    engine = EngineOptions(distribution=distribution)
    optimizer = ZerothOrderOptimizer(ours, lr=1e-3, eps=1e-3, seed=11, engine=engine, **settings)
    tolerance = 1e-6 if distribution == "sphere" else 1e-9
    for step in range(10):
        loss = optimizer.step(ours)
        more = {"distribution": distribution, **settings}
        expected = spsa_step(theirs, theirs, seed=11, step=step, lr=1e-3, eps=1e-3, **more)
        assert abs(float(loss) - expected) < tolerance
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=tolerance)


@both_paths
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("settings", SETTINGS[:2])
def test_tiny_llama_equals_the_reference(tied: bool, settings: dict[str, Any]) -> None:
    ours, theirs = tiny_llama(torch.float64, tied=tied), tiny_llama(torch.float64, tied=tied)
    batch = tokens()
    optimizer = ZerothOrderOptimizer(ours, lr=1e-3, eps=1e-3, seed=2, **settings)
    for step in range(4):
        optimizer.step(lambda: language_loss(ours, batch))
        spsa_step(theirs, lambda: language_loss(theirs, batch), seed=2, step=step, lr=1e-3, eps=1e-3, **settings)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-6)


@both_paths
def test_a_mask_follows_the_weights_and_equals_the_reference() -> None:
    ours, theirs, batch = tiny_llama(torch.float64), tiny_llama(torch.float64), tokens()
    optimizer = ZerothOrderOptimizer(ours, lr=3e-2, eps=1e-3, seed=4, weight_decay=0.1, sparsity=Sparsity(0.4))
    matrices = {name: p for name, p in theirs.named_parameters() if p.ndim > 1}
    thresholds = {
        name: p.detach().abs().flatten().sort().values[round(0.4 * p.numel()) - 1] for name, p in matrices.items()
    }
    frozen = 0
    for step in range(6):
        masks = {name: p.detach().abs() <= thresholds[name] for name, p in matrices.items()}
        frozen = sum(int((~mask).sum()) for mask in masks.values())
        optimizer.step(lambda: language_loss(ours, batch))
        spsa_step(
            theirs,
            partial(language_loss, theirs, batch),
            seed=4,
            step=step,
            lr=3e-2,
            eps=1e-3,
            weight_decay=0.1,
            masks=masks,
        )
    start = sum(p.numel() - round(0.4 * p.numel()) for p in matrices.values())
    assert frozen > start, "the mask is dynamic: weights that grow past the threshold leave it"
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-9)


class Watched(Quadratic):
    """Notes the weights that each forward sees."""

    seen: Tensor

    def forward(self) -> Tensor:
        self.seen = torch.cat([self.weight.detach().flatten(), self.bias.detach()])
        return super().forward()


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "sphere"])
def test_the_mean_estimate_is_the_gradient(distribution: Distribution) -> None:
    model = Watched()
    model().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    weights, eps, count = model.seen, 1e-3, 5_000
    optimizer = ZerothOrderOptimizer(model, lr=0.0, eps=eps, seed=5, engine=EngineOptions(distribution=distribution))
    total, squares = torch.zeros_like(gradient), torch.zeros_like(gradient)
    for _ in range(count):
        optimizer.step(model)
        assert optimizer.last is not None
        z = (weights - model.seen) / eps  # The last forward of a step is the one at theta - eps z.
        estimate = optimizer.last.projected_gradients[0] * z
        total += estimate
        squares += estimate**2
    mean = total / count
    error = ((squares / count - mean**2) / count).sqrt()
    deviations = (mean - gradient) / error
    # 126 of them: one beyond 4.5 comes once in a thousand runs, and their mean square is 1 within 0.5 at 4 sigma.
    assert deviations.abs().max() < 4.5
    assert abs(float((deviations**2).mean()) - 1) < 0.5
