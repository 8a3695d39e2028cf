"""The first-order optimizers against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from tests.helpers.models import Quadratic
from zolightning.errors import ConfigurationError
from zolightning.optim import BackpropAdamW, BackpropSGD


def assert_equal_steps(ours: Quadratic, mine: Optimizer, theirs: Quadratic, reference: Optimizer) -> None:
    for _ in range(10):
        mine.step(ours)
        reference.zero_grad()
        theirs().backward()
        reference.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_torch(momentum: float) -> None:
    ours, theirs = Quadratic(), Quadratic()
    mine = BackpropSGD(ours, lr=1e-3, momentum=momentum)
    reference = SGD(theirs.parameters(), lr=1e-3, momentum=momentum)
    assert_equal_steps(ours, mine, theirs, reference)


def test_adam_equals_torch_with_decay_on_matrices_only() -> None:
    ours, theirs = Quadratic(), Quadratic()
    mine = BackpropAdamW(ours, lr=1e-2, weight_decay=0.1)
    groups: list[dict[str, Any]] = [{"params": [theirs.weight]}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = AdamW(groups, lr=1e-2, weight_decay=0.1)
    assert_equal_steps(ours, mine, theirs, reference)


def test_sgd_decay_is_decoupled_and_exempts_vectors() -> None:
    model = Quadratic()
    start = [p.clone() for p in model.parameters()]
    optimizer = BackpropSGD(model, lr=0.1, weight_decay=0.5)
    zero = 0.0 * model.weight.sum() + 0.0 * model.bias.sum()
    optimizer.step(lambda: zero)
    torch.testing.assert_close(model.weight, start[0] * 0.95)
    assert torch.equal(model.bias, start[1])


def test_clipping_bounds_the_whole_gradient() -> None:
    model = Quadratic()
    BackpropSGD(model, lr=0.0, clip_norm=0.1).step(model)
    grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(grads.norm(), torch.tensor(0.1, dtype=torch.float64), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", [BackpropSGD, BackpropAdamW])
def test_a_loss_that_is_not_finite_skips_the_step(kind: Any) -> None:
    model = Quadratic()
    optimizer = kind(model, lr=1e-2, weight_decay=0.1)
    before = [p.clone() for p in model.parameters()]
    for _ in range(2):
        optimizer.step(lambda: model() * float("nan"))
    assert optimizer.guard.counts.tolist() == [2, 2, 2]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    with pytest.raises(ConfigurationError, match="closure"):
        optimizer.step()


def test_gradients_that_are_not_finite_skip_the_step_too() -> None:
    model = Quadratic()
    optimizer = BackpropSGD(model, lr=1e-2)
    before = model.weight.detach().clone()
    optimizer.step(lambda: (model.weight * 0).abs().sqrt().sum() + model.bias.sum())
    assert optimizer.guard.counts.tolist() == [1, 1, 1]
    assert torch.equal(model.weight, before)
