"""Weights sharded by `fully_shard` move, bit for bit, as in one process that holds them all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
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
from zolightning.optim import ZerothOrderOptimizer
from zolightning.perturbation import bundle
from zolightning.perturbation.options import EngineOptions
from zolightning.perturbation.shards import is_sharded, local_part, reshard, units_of
from zolightning.strategies import ZOSGD, SparseMeZO, Strategy, ZOAdam

# What takes no backward pass.
METHODS_HERE = [name for name in METHODS if not name.startswith(("FO", "Hybrid")) and "snip" not in name]


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
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model, gathered."""
    return {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in model.named_parameters()}


def toy_loss(model: nn.Module) -> Tensor:
    inputs = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    outputs: Tensor = model(inputs.to(next(model.parameters()).dtype))
    return (outputs.float() - 0.3).square().mean()


def llama_loss(model: nn.Module) -> Tensor:
    return language_loss(model, tokens())


Loss = Callable[[nn.Module], Tensor]


def trained(model: nn.Module, strategy: Strategy, loss: Loss, steps: int) -> dict[str, Tensor]:
    """Return a model's weights after some steps, with an evaluation among them, which leaves the root gathered."""
    optimizer = strategy.configure(model, seed=SEED)
    for step in range(steps):
        optimizer.step(lambda: loss(model))  # type: ignore[arg-type, return-value]
        if step == 1:
            with torch.no_grad():
                loss(model)
    reshard(units_of(model))
    return {name: value.detach().clone() for name, value in whole(model).items()}


def compare(mesh: DeviceMesh, model: nn.Module, make: Callable[[], Strategy], steps: int = 10) -> None:
    """Compare steps of a model in this process with those of its shards in all."""
    loss = toy_loss if isinstance(model, Toy) else llama_loss
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    alone = trained(copy.deepcopy(model), make(), loss, steps)
    together = trained(sharded(copy.deepcopy(model), mesh), make(), loss, steps)
    assert alone.keys() == together.keys()
    assert [name for name in alone if not torch.equal(alone[name], together[name])] == []
    assert any(not torch.equal(alone[name], before[name]) for name in alone)


def made(name: str) -> Callable[[], Strategy]:
    """Return what makes a strategy of the matrix of methods."""
    return lambda: METHODS[name].make(METHODS[name].lr)


def check_methods() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for name in METHODS_HERE:
        for dtype in (torch.float32, torch.bfloat16):
            for largest in (0, 1 << 15):
                with mock.patch.object(bundle, "_LARGEST", largest):
                    compare(mesh, Toy().to(dtype), made(name))
    for name in ("ZOSGD", "SparseMeZO", "ZOAdam"):
        with mock.patch.object(bundle, "_LARGEST", 20):
            compare(mesh, tiny_llama(torch.bfloat16), made(name), 3)


@pytest.mark.slow
def test_every_zeroth_order_method() -> None:
    in_ranks(check_methods)


def check_llama() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for name in METHODS_HERE:
        for dtype, tied, largest in ((torch.float32, True, 20), (torch.bfloat16, False, 1 << 15)):
            with mock.patch.object(bundle, "_LARGEST", largest):
                compare(mesh, tiny_llama(dtype, tied=tied), made(name))


@pytest.mark.slow
def test_every_zeroth_order_method_on_a_language_model() -> None:
    in_ranks(check_llama)


def engine(**options: Any) -> Callable[[], Strategy]:
    return lambda: ZOSGD(3e-3, 1e-3, engine=EngineOptions(**options))


def check_engine() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for make in (
        engine(distribution="sphere"),
        engine(distribution="rademacher"),
        engine(probe="in_place"),
        lambda: SparseMeZO(3e-3, 1e-3, 0.3, resample_every=2),
        lambda: ZOSGD(3e-3, 1e-3, num_queries=3, mask="random", sparsity=0.5, weight_decay=0.1),
        lambda: ZOAdam(3e-3, 1e-3, weight_decay=0.1),
    ):
        with mock.patch.object(bundle, "_LARGEST", 20):
            compare(mesh, Toy().to(torch.bfloat16), make, 4)
    for strategy, message in (
        (engine(idle_rows="skip")(), "idle_rows"),
        (ZOSGD(3e-3, 1e-3, mask="snip", sparsity=0.5), "snip"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            strategy.configure(sharded(Toy(), mesh))
    check_peeping(mesh)
    check_parts(mesh)


class Peeping(Toy):
    """Reads its neighbour's weight."""

    def forward(self, inputs: Tensor) -> Tensor:
        head = self.layers[0]
        assert isinstance(head, nn.Linear)
        return super().forward(inputs) * self.scale.mean() + 0.0 * head.bias.sum()


def check_peeping(mesh: DeviceMesh) -> None:
    """A module that reads another's weight is told of; here the root gathers all, so that it could."""
    model = Peeping()
    fully_shard(model, mesh=mesh)
    optimizer = ZOSGD(3e-3, 1e-3).configure(model)
    assert isinstance(optimizer, ZerothOrderOptimizer)
    with pytest.raises(ConfigurationError, match="reads weights that are not its own"):
        optimizer.step(lambda: toy_loss(model))
    assert all(is_sharded(p) for p in optimizer.param_groups[0]["params"])
    assert all(torch.isfinite(p).all() for p in whole(model).values())


def check_parts(mesh: DeviceMesh) -> None:
    """Rows are dealt out in order, the last process having fewer, or none."""
    rank = mesh.get_local_rank()
    for rows, places in ((5, ((0, 9), (9, 6))), (1, ((0, 3), (3, 0))), (4, ((0, 6), (6, 6)))):
        tensor = torch.arange(3.0 * rows).view(rows, 3)
        part = local_part(distribute_tensor(tensor, mesh, [Shard(0)]))
        assert (part.first, part.flat.numel()) == places[rank]
        assert part.size == 3 * rows
        assert torch.equal(part.flat, tensor.view(-1)[part.first :][: part.flat.numel()])
        assert part.sum_before(7 + rank) == 7 * rank
    with pytest.raises(ConfigurationError, match="dimension 0"):
        local_part(distribute_tensor(torch.ones(2, 4), mesh, [Shard(1)]))


def test_options_of_the_engine_and_what_is_refused() -> None:
    in_ranks(check_engine)


def test_a_plain_tensor_is_its_only_part() -> None:
    weight = nn.Parameter(torch.ones(3, 4))
    part = local_part(weight)
    assert not is_sharded(weight)
    assert (part.first, part.size, part.group) == (0, 12, None)
    assert part.flat.data_ptr() == weight.data_ptr()
    assert part.sum_before(5) == 0
