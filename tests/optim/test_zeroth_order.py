"""ZerothOrderOptimizer: what it refuses, what it leaves alone, what it remembers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.models import Quadratic, language_loss, tiny_llama, tokens
from zolightning.errors import ConfigurationError
from zolightning.optim import ZerothOrderOptimizer

both_paths = pytest.mark.usefixtures("both_paths")


def test_a_checkpoint_of_another_noise_layout_is_refused() -> None:
    model = Quadratic()
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, eps=1e-3)
    state = optimizer.state_dict()
    state["param_groups"][0]["layout"] = 0
    with pytest.raises(ConfigurationError, match="noise layout 0"):
        optimizer.load_state_dict(state)


def test_frozen_parameters_stay_and_cost_no_hook() -> None:
    model = tiny_llama(tied=False)
    model.requires_grad_(False)
    model.model.layers[0].self_attn.q_proj.weight.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, eps=1e-3)
    with optimizer.probe(0, 1e-3):
        hooked = [name for name, module in model.named_modules() if module._forward_pre_hooks]
    assert hooked == ["model.layers.0.self_attn.q_proj"]
    optimizer.step(lambda: language_loss(model, tokens()))
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["model.layers.0.self_attn.q_proj.weight"]


def test_weights_are_put_back_after_an_exception_in_the_forward() -> None:
    model, batch = tiny_llama(), tokens()
    parameters = dict(model.named_parameters())
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, eps=1e-3)

    def fail(module: nn.Module, inputs: object, output: object) -> None:
        raise RuntimeError("planted")

    handle = model.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="planted"):
        optimizer.step(lambda: language_loss(model, batch))
    handle.remove()
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    optimizer.step(lambda: language_loss(model, batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.0}, "eps"),
        ({"eps": -1.0}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"lr": -1.0}, "lr"),
        ({"num_queries": 0}, "num_queries"),
        ({"weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ZerothOrderOptimizer(Quadratic(), **{"lr": 1e-3, "eps": 1e-3, **settings})


def test_nothing_trainable_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nothing is trainable"):
        ZerothOrderOptimizer(Quadratic().requires_grad_(False), lr=1e-3, eps=1e-3)


def test_a_step_without_closure_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="closure"):
        ZerothOrderOptimizer(Quadratic(), lr=1e-3, eps=1e-3).step()


@both_paths
def test_groups_have_rates_of_their_own() -> None:
    model = Quadratic()
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, eps=1e-3)
    optimizer.param_groups[1]["lr"] = 0.0
    before = [p.clone() for p in model.parameters()]
    optimizer.step(model)
    assert not torch.equal(model.weight, before[0])
    assert torch.equal(model.bias, before[1])


def test_a_parameter_that_no_module_call_uses_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, eps=1e-3)
    with pytest.raises(ConfigurationError, match=r"used 1\.bias, 1\.weight through its module"):
        optimizer.step(lambda: model[0](torch.ones(1, 4)).sum())


def test_skipped_steps_are_remembered_but_a_row_of_them_begins_anew() -> None:
    model = Quadratic()
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, eps=1e-3)
    optimizer.step(lambda: model() * float("nan"))
    state = copy.deepcopy(optimizer.state_dict())
    resumed = ZerothOrderOptimizer(model, lr=1e-2, eps=1e-3)
    resumed.load_state_dict(state)
    resumed.step(lambda: model() * float("nan"))
    assert resumed.guard.counts.tolist() == [2, 1, 1]


def test_a_weight_that_is_not_contiguous_is_refused_by_name() -> None:
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.randn(4, 3).T)
    with pytest.raises(ConfigurationError, match="weight is not contiguous"):
        ZerothOrderOptimizer(model, lr=1e-2, eps=1e-3)
