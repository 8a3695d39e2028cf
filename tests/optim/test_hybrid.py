"""Hybrid steps: how a model is cut in two, and both parts against the formula."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.families import build
from tests.helpers.models import language_loss, tiny_llama, tokens
from tests.helpers.reference import direction
from zolightning.errors import ConfigurationError
from zolightning.optim.hybrid import HybridOptimizer
from zolightning.optim.split import last_layers
from zolightning.strategies import FOSGD, ZOSGD, FOAdam, HybridZOFO, Strategy, ZOAdam

LR, EPS, SEED = 1e-2, 1e-3, 3

# Of two blocks the last, and what follows it.
UPPER = {
    "llama": {"model.layers.1", "model.norm", "lm_head"},
    "opt": {"model.decoder.layers.1", "model.decoder.final_layer_norm", "model.decoder.project_out", "lm_head"},
    "gpt2": {"transformer.h.1", "transformer.ln_f"},
    "roberta": {"roberta.encoder.layer.1", "lm_head"},
    "qwen3": {"model.layers.1", "model.norm", "lm_head"},
    "phi": {"model.layers.1", "model.final_layernorm", "lm_head"},
    "gpt_neox": {"gpt_neox.layers.1", "gpt_neox.final_layer_norm", "embed_out", "lm_head"},
}


def names_of(model: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", UPPER)
def test_the_upper_part_is_the_last_blocks_and_what_follows_them(family: str) -> None:
    model = build(family, torch.float32)
    names = names_of(model)
    tied = {"lm_head.weight", "lm_head.decoder.weight"} - set(names.values())
    expected = {name for name in names.values() if any(name.startswith(f"{path}.") for path in UPPER[family])}
    found = last_layers(model, names, 1)
    assert found == expected - tied
    assert not any("embed_tokens" in name or "wte" in name or "word_embeddings" in name for name in found)
    assert last_layers(model, names, 0) == set()
    assert last_layers(model, names, 2) == set(names.values())


def test_blocks_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"\[0, 2\]"):
        HybridZOFO(ZOSGD(LR, EPS), FOSGD(LR), 3).configure(tiny_llama())
    with pytest.raises(ConfigurationError, match="cannot be cut"):
        HybridZOFO(ZOSGD(LR, EPS), FOSGD(LR), 1).configure(nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="negative"):
        HybridZOFO(ZOSGD(LR, EPS), FOSGD(LR), -1)


def run(strategy: Strategy, model: nn.Module, steps: int, batch: Tensor) -> Any:
    optimizer = strategy.configure(model, seed=SEED)
    for _ in range(steps):
        strategy.training_step(optimizer, lambda: language_loss(model, batch))
    return optimizer


@pytest.mark.parametrize(("layers", "alone"), [(0, ZOAdam(LR, EPS)), (2, FOAdam(LR))])
def test_with_none_or_all_of_the_blocks_it_is_one_of_the_two(layers: int, alone: Strategy) -> None:
    ours, theirs, batch = tiny_llama(), tiny_llama(), tokens()
    run(HybridZOFO(ZOAdam(LR, EPS), FOAdam(LR), layers), ours, 4, batch)
    run(alone, theirs, 4, batch)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("tied", [True, False])
def test_both_parts_step_from_the_same_weights_by_their_formulas(tied: bool) -> None:
    ours, theirs, batch = tiny_llama(torch.float64, tied=tied), tiny_llama(torch.float64, tied=tied), tokens()
    strategy = HybridZOFO(ZOSGD(LR, EPS), FOSGD(LR), 1)
    optimizer = run(strategy, ours, 0, batch)
    assert isinstance(optimizer, HybridOptimizer)
    upper = last_layers(theirs, names_of(theirs), 1)
    parameters = dict(theirs.named_parameters())
    for step in range(3):
        returned = optimizer.step(lambda: language_loss(ours, batch))
        z, losses = direction(theirs, SEED, step, 0), []
        loss = language_loss(theirs, batch)
        torch.autograd.backward(loss)
        torch.testing.assert_close(returned, loss.detach(), rtol=0, atol=1e-9)
        gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        theirs.zero_grad()
        with torch.no_grad():
            for sign in (1, -2, 1):
                for name in parameters.keys() - upper:
                    parameters[name].add_(sign * EPS * z[name])
                losses.append(language_loss(theirs, batch))
            g = (losses[0] - losses[1]) / (2 * EPS)
            for name, p in parameters.items():
                p.sub_(LR * (gradients[name] if name in upper else g * z[name]))
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-9)
        assert mine.requires_grad


def test_nothing_is_kept_of_what_lies_below() -> None:
    """Autograd saves tensors for the last block and the head alone."""
    model, batch = tiny_llama(tied=False), tokens()
    saved: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    def sizes(layers: int) -> int:
        saved.clear()
        strategy = HybridZOFO(ZOSGD(LR, EPS), FOSGD(LR), layers)
        optimizer = run(strategy, model, 0, batch)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            optimizer.step(lambda: language_loss(model, batch))
        return sum(saved)

    none, one, both = sizes(0), sizes(1), sizes(2)
    assert none == 0
    assert 0 < one < 0.7 * both


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_the_run(dtype: torch.dtype) -> None:
    whole, parts, batch = tiny_llama(dtype), tiny_llama(dtype), tokens()
    strategy = HybridZOFO(ZOAdam(LR, EPS, mask="random", sparsity=0.5, resample_every=3), FOAdam(LR), 1)
    run(strategy, whole, 5, batch)
    saved = copy.deepcopy(run(strategy, parts, 2, batch).state_dict())
    resumed = strategy.configure(parts, seed=0)
    resumed.load_state_dict(saved)
    for _ in range(3):
        strategy.training_step(resumed, lambda: language_loss(parts, batch))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_a_schedule_reaches_both_parts() -> None:
    model, batch = tiny_llama(), tokens()
    optimizer = run(HybridZOFO(ZOSGD(LR, EPS), FOSGD(10 * LR), 1), model, 0, batch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=1)
    assert {group["lr"] for group in optimizer.zeroth.param_groups} == {LR / 2}
    assert {group["lr"] for group in optimizer.first.param_groups} == {10 * LR / 2}
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(lambda: language_loss(model, batch))
    schedule.step()
    assert {group["lr"] for group in optimizer.first.param_groups} == {10 * LR}


def test_snip_in_the_probed_part_leaves_the_other_s_gradient_alone() -> None:
    models = [tiny_llama(torch.float64), tiny_llama(torch.float64)]
    batch = tokens()
    for model, zeroth in zip(models, (ZOSGD(LR, EPS, mask="snip", sparsity=0.5), ZOSGD(LR, EPS)), strict=True):
        run(HybridZOFO(zeroth, FOSGD(LR), 1), model, 1, batch)
    upper = last_layers(models[0], names_of(models[0]), 1)
    one, other = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(one[name], other[name]) for name in upper)
