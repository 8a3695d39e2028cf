"""Masks in the optimizer: exact, the same in probe and update, and stored nowhere if they can be made anew."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests.helpers.models import language_loss, tiny_llama, tokens
from zolightning.errors import ConfigurationError
from zolightning.optim import Sparsity, ZerothOrderOptimizer
from zolightning.perturbation.masks import Score, mask_of
from zolightning.perturbation.options import Distribution, EngineOptions, ProbeMode
from zolightning.strategies import ZOSGD


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


def moved_by_a_step(optimizer: ZerothOrderOptimizer, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step(lambda: language_loss(model, batch))
    return {name: p != before[name] for name, p in model.named_parameters() if p.ndim > 1}


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("probe", ["in_forward", "in_place"])
def test_snip_keeps_what_the_loss_is_most_sensitive_to(probe: ProbeMode, distribution: Distribution) -> None:
    model, batch = tiny_llama(torch.float64), tokens()
    torch.autograd.backward(language_loss(model, batch))
    parameters = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    saliency = {name: (p.grad * p).abs().detach() for name, p in parameters.items() if p.grad is not None}
    model.zero_grad()
    optimizer = ZerothOrderOptimizer(
        model, lr=1e-2, eps=1e-3, sparsity=Sparsity(0.3, "snip"), engine=EngineOptions(distribution, probe)
    )
    moved = [moved_by_a_step(optimizer, model, batch) for _ in range(2)]
    assert all(p.grad is None for p in model.parameters()), "the gradient is gone"
    for name, values in saliency.items():
        count = round(0.3 * values.numel())
        selection = optimizer.engine.selections[name]
        mask = mask_of(selection, parameters[name].detach().flatten()).view(values.shape)
        assert int(mask.sum()) == count
        assert values[mask].min() >= values[~mask].max()
        if distribution == "rademacher" and probe == "in_forward":
            assert torch.equal(moved[0][name], mask), "it holds from the first step on"
            assert torch.equal(moved[1][name], mask)


@pytest.mark.parametrize("score", ["random", "magnitude", "snip"])
def test_a_mask_is_picked_anew_when_it_is_due(score: Score) -> None:
    model, batch = tiny_llama(), tokens()
    sparsity = Sparsity(0.3, score, resample_every=3)
    optimizer = ZerothOrderOptimizer(
        model, lr=0.3, eps=1e-3, sparsity=sparsity, engine=EngineOptions(distribution="rademacher")
    )
    name, kept = "model.layers.0.mlp.up_proj.weight", []
    for _ in range(7):
        moved = moved_by_a_step(optimizer, model, batch)[name]
        assert int(moved.sum()) <= round(0.3 * moved.numel())
        state = optimizer.state[optimizer.engine.parameters[name]]
        kept.append((moved, state["threshold"].clone()))
    for step in (0, 1, 3, 4):
        assert torch.equal(kept[step][1], kept[step + 1][1])
        if score == "random":
            assert torch.equal(kept[step][0], kept[step + 1][0])
    overlap = (kept[0][0] & kept[3][0]).sum() / kept[0][0].sum()
    if score == "random":
        assert 0.2 < overlap < 0.4, "another mask, of which three tenths are the same by chance"
    if score == "magnitude":
        assert not torch.equal(kept[2][1], kept[3][1]), "the weights have moved, and the threshold with them"


@pytest.mark.parametrize("score", ["random", "magnitude", "snip"])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_a_resumed_run_has_the_masks_of_the_run(score: Score, steps: int) -> None:
    whole, parts, batch = tiny_llama(), tiny_llama(), tokens()
    settings: dict[str, Any] = {"lr": 0.1, "eps": 1e-3, "sparsity": Sparsity(0.3, score, resample_every=3)}
    run, first = (ZerothOrderOptimizer(model, seed=4, **settings) for model in (whole, parts))
    for _ in range(7):
        run.step(lambda: language_loss(whole, batch))
    for _ in range(steps):
        first.step(lambda: language_loss(parts, batch))
    resumed = ZerothOrderOptimizer(parts, seed=0, **settings)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(7 - steps):
        resumed.step(lambda: language_loss(parts, batch))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


@pytest.mark.parametrize("adapters", [False, True])
def test_snip_is_exact_where_saliency_is_zero(adapters: bool) -> None:
    """In rows that no token looks up, and in adapters before their first step."""
    model: nn.Module = tiny_llama(tied=False)
    if adapters:
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    optimizer = ZerothOrderOptimizer(model, lr=0.1, eps=1e-3, sparsity=Sparsity(0.1, "snip"))
    batch = torch.ones(2, 5, dtype=torch.int64)
    optimizer.step(lambda: model(input_ids=batch).logits[:, -1, :2].float().logsumexp(-1).mean())
    for name, p in optimizer.engine.parameters.items():
        if p.ndim > 1:
            mask = mask_of(optimizer.engine.selections[name], p.detach().flatten())
            assert int(mask.sum()) == round(0.1 * p.numel()), name


def test_snip_forgets_gradients_of_others() -> None:
    def bits(stale: bool) -> list[Tensor]:
        model, batch = tiny_llama(), tokens()
        for p in model.parameters():
            p.grad = torch.ones_like(p) if stale else None
        optimizer = ZerothOrderOptimizer(model, lr=0.0, eps=1e-3, sparsity=Sparsity(0.1, "snip"))
        optimizer.step(lambda: language_loss(model, batch))
        return [one.bits for one in optimizer.engine.selections.values() if one.bits is not None]

    assert all(torch.equal(one, other) for one, other in zip(bits(False), bits(True), strict=True))


def test_snip_without_a_gradient_is_refused() -> None:
    model, batch = tiny_llama(), tokens()
    optimizer = ZerothOrderOptimizer(model, lr=0.1, eps=1e-3, sparsity=Sparsity(0.3, "snip"))
    with pytest.raises(ConfigurationError, match="gradient"):
        optimizer.step(lambda: language_loss(model, batch).detach())


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"sparsity": 0.5}, "set mask"),
        ({"resample_every": 5}, "set mask"),
        ({"mask": "random"}, "needs sparsity"),
        ({"mask": "random", "sparsity": 1.0}, r"in \[0, 1\)"),
        ({"mask": "random", "sparsity": 0.5, "resample_every": 0}, "resample_every"),
    ],
)
def test_a_recipe_s_mask_is_whole(settings: dict[str, Any], needed: str) -> None:
    with pytest.raises(ConfigurationError, match=needed):
        ZOSGD(1e-3, 1e-3, **settings)


@pytest.mark.parametrize(
    "changed", [Sparsity(0.5), Sparsity(0.2, "large"), Sparsity(0.2, "random"), Sparsity(0.2, resample_every=5), None]
)
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
