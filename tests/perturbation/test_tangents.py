"""Derivatives along directions, forward, against autograd's gradient."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.families import PROBED, build, tiny
from tests.helpers.models import tiny_llama, tokens
from tests.helpers.reference import direction
from zolightning.errors import ConfigurationError
from zolightning.optim import Sparsity, forward_mode
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.perturbation import bundle, probe, tangents
from zolightning.perturbation.options import Distribution, EngineOptions
from zolightning.perturbation.tangents import parts_of
from zolightning.strategies import ForwardGradient

SEED = 3


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    """Return minus the mean log-probability of tokens at their own places [], in float32 at least: masked or not."""
    logits = model(input_ids=batch).logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(wide.flatten(0, 1), batch.flatten())


def slopes(model: nn.Module, batch: Tensor, distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Return the derivative along the first direction, forward and by autograd, of which one is at fault."""
    optimizer = ForwardGradient(1e-2, engine=EngineOptions(distribution)).configure(model, seed=SEED)
    assert isinstance(optimizer, ZerothOrderOptimizer)
    with torch.no_grad():
        estimate = forward_mode(optimizer, lambda: loss_of(model, batch), 1)
    torch.autograd.backward(loss_of(model, batch))
    z = direction(model, SEED, 0, 0, distribution)
    # Experts that no token went to have no gradient.
    found = [(p.grad * z[n]).sum() for n, p in model.named_parameters() if p.grad is not None]
    return estimate.projected_gradients[0], torch.stack(found).sum()


@pytest.mark.parametrize("limit", [bundle.LIMIT, 0], ids=["together", "one by one"])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "sphere"])
@pytest.mark.parametrize("family", PROBED)
def test_the_derivative_is_autograd_s(
    family: str, distribution: Distribution, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "LIMIT", limit)
    model: Any = build(family, torch.float64)
    # Grouped products of experts have no forward derivative.
    model.config._experts_implementation = "eager"
    forward, backward = slopes(model, tokens(length=7), distribution)
    # Normal numbers are float32, as is the radius of a sphere.
    torch.testing.assert_close(forward, backward, rtol=1e-6, atol=1e-6)


def test_row_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wide: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    monkeypatch.setattr(bundle, "LIMIT", 0)
    monkeypatch.setattr(probe, "SCRATCH_BYTES", 1)
    forward, backward = slopes(tiny("llama", vocab_size=131, **wide), tokens(length=7), "gaussian")
    torch.testing.assert_close(forward, backward, rtol=1e-6, atol=1e-6)


def test_a_tangent_is_as_large_as_the_rows_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a view torch would give one as large as the whole weight."""
    sizes: list[float] = []
    made = tangents.dual

    def watched(weight: Tensor, tangent: Tensor) -> Tensor:
        dual = made(weight, tangent)
        kept = parts_of(dual)[1]
        assert kept is not None
        sizes.append(kept.untyped_storage().nbytes() / (kept.numel() * kept.element_size()))
        return dual

    monkeypatch.setattr(bundle, "LIMIT", 0)
    monkeypatch.setattr(probe, "SCRATCH_BYTES", 1)
    monkeypatch.setattr(tangents, "dual", watched)
    layer = nn.Linear(64, 128, bias=False)
    optimizer = ForwardGradient(1e-2).configure(layer)
    assert isinstance(optimizer, ZerothOrderOptimizer)
    with torch.no_grad():
        forward_mode(optimizer, lambda: layer(torch.ones(3, 64)).sum(), 1)
    assert sizes == [1.0] * 4


def test_a_loss_that_is_not_finite_has_no_estimate() -> None:
    layer = nn.Linear(4, 4)
    optimizer = ForwardGradient(1e-2).configure(layer)
    assert isinstance(optimizer, ZerothOrderOptimizer)
    with torch.no_grad():
        estimate = forward_mode(optimizer, lambda: layer(torch.ones(3, 4)).sum() + math.inf, 1)
    assert not estimate.finite
    assert float(estimate.projected_gradients) == 0.0


def test_a_mask_masks_the_tangent() -> None:
    model, batch = tiny_llama(torch.float64), tokens()
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, eps=1e-3, seed=SEED, sparsity=Sparsity(0.4))
    with torch.no_grad():
        estimate = forward_mode(optimizer, lambda: loss_of(model, batch), 1)
    torch.autograd.backward(loss_of(model, batch))
    z, total = direction(model, SEED, 0, 0), torch.zeros((), dtype=torch.float64)
    for name, p in model.named_parameters():
        level = p.detach().abs().flatten().sort().values[round(0.4 * p.numel()) - 1]
        mask = p.detach().abs() <= level if p.ndim > 1 else torch.ones_like(p)
        assert p.grad is not None
        total += (p.grad * z[name] * mask).sum()
    torch.testing.assert_close(estimate.projected_gradients[0], total, rtol=1e-6, atol=1e-6)


def test_what_cannot_be_differentiated_is_refused() -> None:
    model, batch = tiny_llama(), tokens()
    strategy = ForwardGradient(1e-2)
    optimizer = strategy.configure(model)
    with pytest.raises(ConfigurationError, match="ZOSGD"):
        strategy.check(optimizer, lambda: loss_of(model, batch).detach())
    with pytest.raises(ConfigurationError, match="in_forward"):
        ForwardGradient(1e-2, engine=EngineOptions(probe="in_place"))
    monotone = nn.Sequential(nn.Linear(4, 4), NoForwardDerivative())
    optimizer = strategy.configure(monotone)
    with pytest.raises(ConfigurationError, match="eager"):
        strategy.check(optimizer, lambda: monotone(torch.randn(3, 4)).mean())


class Squared(torch.autograd.Function):
    """A square with a backward and no forward derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


class NoForwardDerivative(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return cast("Any", Squared).apply(x)
