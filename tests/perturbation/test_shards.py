"""Weights sharded by `fully_shard` move, bit for bit, as in one process that holds them all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from tests.helpers.methods import METHODS, SEED
from tests.helpers.models import language_loss, tiny_llama, tokens
from tests.helpers.ranks import in_ranks
from zolightning.errors import ConfigurationError
from zolightning.perturbation import bundle
from zolightning.perturbation.options import EngineOptions
from zolightning.perturbation.shards import Part, is_sharded, local_part
from zolightning.strategies import ZOSGD, SparseMeZO, Strategy, ZOAdam

STEPS = 10
# What takes no backward pass; and of them what is made of others once.
ZEROTH = [name for name in METHODS if not name.startswith(("FO", "Hybrid")) and "snip" not in name]


class Toy(nn.Module):
    """Layers that are units of their own, a row that one process holds alone, and a parameter of the root's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList([nn.Linear(7, 50), nn.Linear(50, 7), nn.Linear(7, 1)])
        self.scale = nn.Parameter(torch.ones(7))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs * self.scale
        for layer in self.layers:
            hidden = torch.tanh(layer(hidden))
        return hidden


def sharded(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a model by layers, as the papers on it do, and leave the rest to the root."""
    layers = model.layers if isinstance(model, Toy) else model.model.layers  # type: ignore[union-attr]
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model, gathered."""
    return {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in model.named_parameters()}


def trained(model: nn.Module, strategy: Strategy, loss: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
    """Return a model's weights after some steps."""
    optimizer = strategy.configure(model, seed=SEED)
    for _ in range(STEPS):
        optimizer.step(lambda: loss(model))  # type: ignore[arg-type, return-value]
    for unit in model.modules():
        if isinstance(unit, nn.Module) and hasattr(unit, "reshard"):
            unit.reshard()
    return {name: value.detach().clone() for name, value in whole(model).items()}


def toy_loss(model: nn.Module) -> Tensor:
    inputs = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    return (model(inputs.to(model.scale.dtype)) - 0.3).square().mean()  # type: ignore[union-attr, arg-type]


def llama_loss(model: nn.Module) -> Tensor:
    return language_loss(model, tokens())


def compare(mesh: DeviceMesh, model: nn.Module, make: Callable[[], Strategy], loss: Callable[[nn.Module], Tensor]) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    alone = trained(copy.deepcopy(model), make(), loss)
    together = trained(sharded(copy.deepcopy(model), mesh), make(), loss)
    assert alone.keys() == together.keys()
    assert [name for name in alone if not torch.equal(alone[name], together[name])] == []
    assert any(not torch.equal(alone[name], before[name]) for name in alone)


def all_methods() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for name in ZEROTH:
        method = METHODS[name]
        for dtype in (torch.float32, torch.bfloat16):
            model = tiny_llama(dtype)
            compare(mesh, model, lambda method=method: method.make(method.lr), llama_loss)  # type: ignore[misc]
            with mock.patch.object(bundle, "_LARGEST", 20):
                compare(mesh, model, lambda method=method: method.make(method.lr), llama_loss)  # type: ignore[misc]


def test_every_zeroth_order_method() -> None:
    in_ranks(all_methods)
