"""Masks in the optimizer: exact, dynamic, stored nowhere, the same in probe and update."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.models import language_loss, tiny_llama, tokens
from zolightning.optim import Sparsity, ZerothOrderOptimizer
from zolightning.perturbation.options import Distribution, EngineOptions


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("score", ["magnitude", "large", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_is_exact_and_what_it_leaves_out_never_changes(
    score: Any, dtype: torch.dtype, distribution: Distribution
) -> None:
    model, batch = tiny_llama(dtype), tokens()
    optimizer = ZerothOrderOptimizer(
        model,
        lr=1e-2,
        eps=1e-3,
        weight_decay=0.01,
        sparsity=Sparsity(0.3, score),
        engine=EngineOptions(distribution=distribution, rounding="nearest"),
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    # At a scale of 64 only a z below 1e-5 would round away, even in bfloat16: of these few thousand none is.
    with torch.no_grad(), optimizer.probe(0, 64.0):
        seen: dict[str, Tensor] = {}
        handles = [m.register_forward_pre_hook(recorder(name, seen)) for name, m in model.named_modules()]
        model(input_ids=batch)
    for handle in handles:
        handle.remove()
    optimizer.step(lambda: language_loss(model, batch))
    for name, parameter in model.named_parameters():
        perturbed = seen[name] != before[name]
        expected = round(0.3 * parameter.numel()) if parameter.ndim > 1 else parameter.numel()
        assert int(perturbed.sum()) == expected, name
        assert torch.equal(parameter[~perturbed], before[name][~perturbed]), name
        if parameter.ndim > 1 and score == "magnitude":
            assert before[name][perturbed].abs().max() <= before[name][~perturbed].abs().max()


def recorder(prefix: str, seen: dict[str, Tensor]) -> Any:
    def record(module: nn.Module, inputs: object) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            seen[f"{prefix}.{name}"] = parameter.detach().clone()

    return record


def test_sparse_steps_store_no_mask() -> None:
    optimizer = ZerothOrderOptimizer(tiny_llama(), lr=1e-3, eps=1e-3, sparsity=Sparsity(0.2))
    for state in optimizer.state.values():
        assert all(value.ndim == 0 for value in state.values())


def test_a_tensor_of_zeros_has_no_magnitudes_and_is_dense() -> None:
    model = nn.Linear(32, 32, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, eps=1e-3, sparsity=Sparsity(0.2))
    data = torch.randn(8, 32)
    for _ in range(3):
        before = model.weight.detach().clone()
        optimizer.step(lambda: (model(data) - 1).square().mean())
        assert (model.weight != before).float().mean() > 0.99


@pytest.mark.parametrize("changed", [Sparsity(0.5), Sparsity(0.2, "large"), Sparsity(0.2, "random"), None])
def test_the_recipes_mask_wins_over_the_checkpoints(changed: Sparsity | None) -> None:
    model = tiny_llama()
    state = copy.deepcopy(ZerothOrderOptimizer(model, lr=0.0, eps=1e-3, sparsity=Sparsity(0.2)).state_dict())
    resumed = ZerothOrderOptimizer(model, lr=0.0, eps=1e-3, sparsity=changed)
    expected = thresholds(resumed)
    resumed.load_state_dict(state)
    assert thresholds(resumed) == expected


def thresholds(optimizer: ZerothOrderOptimizer) -> dict[str, tuple[str, int, int]]:
    selections = optimizer.engine.selections.items()
    return {name: (one.score, int(one.threshold), int(one.cut)) for name, one in selections}
