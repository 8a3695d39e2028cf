"""Stand-ins for the length of a module's forward: put back whatever happens, and nothing of them left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from tests.helpers.probes import PLACE, SCALE, expected, probed, random
from tests.helpers.reference import direction
from zolightning.perturbation import bundle
from zolightning.perturbation.engine import Engine
from zolightning.perturbation.options import EngineOptions


@pytest.fixture(autouse=True, params=["together", "one by one"])
def both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "one by one":
        monkeypatch.setattr(bundle, "LIMIT", 0)


def test_a_module_that_hands_its_weight_on_hands_on_the_perturbed_one() -> None:
    """What outlives the module's forward must not lie in scratch, which the next module writes over."""

    class Holder(nn.Module):
        def __init__(self, part: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.weight = nn.Parameter(random(6, 6))
            self.part = part

        def forward(self) -> Tensor:
            return self.part(self.weight)

    class Model(nn.Module):
        def __init__(self, part: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.holder, self.linear = Holder(part), nn.Linear(6, 6)

        def forward(self, inputs: Tensor) -> Tensor:
            held = self.holder()
            out: Tensor = self.linear(inputs) @ held
            return out

    parts: list[Callable[[Tensor], Tensor]] = [
        lambda w: w,
        lambda w: w[:6],
        lambda w: w.T,
        lambda w: w.expand(1, 6, 6)[0],
    ]
    for part in parts:
        model = Model(part)
        engine = Engine(model)
        for _ in range(3):
            assert torch.equal(probed(model, random(4, 6), engine), expected(model, random(4, 6)))
        assert len(engine._scratch._buffers) <= 3


def test_what_holds_a_weight_stays_what_it_is() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(random(6, 6))

        def forward(self, inputs: Tensor) -> BaseModelOutput:
            return BaseModelOutput(self.weight, (inputs, self.weight[1], inputs @ self.weight))

    model, inputs = Holder(), random(4, 6)
    with torch.no_grad(), Engine(model).perturbed(PLACE, SCALE):
        out = model(inputs)
        weight = model.weight.detach() + SCALE * direction(model, PLACE.seed, PLACE.step, PLACE.query)["weight"]
        model(random(4, 6))
    assert type(out) is BaseModelOutput
    held, (same, row, product) = out.to_tuple()
    assert same is inputs
    assert torch.equal(held, weight)
    assert torch.equal(row, weight[1])
    assert torch.equal(product, inputs @ weight)


@pytest.mark.parametrize("where", ["inner", "outer"])
def test_after_an_exception_weights_and_scratch_are_put_back(where: str) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(random(6, 6))
            self.inner = nn.Linear(6, 6)

        def forward(self, inputs: Tensor) -> Tensor:
            moved = inputs @ self.weight
            if fails and where == "outer":
                raise RuntimeError("planted")
            out: Tensor = self.inner(moved if not fails else moved[:, :3])
            return out

    model, fails = Outer(), True
    parameters = dict(model.named_parameters())
    engine = Engine(model)
    with pytest.raises(RuntimeError):
        probed(model, random(4, 6), engine)
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    assert engine._scratch._used == 0
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    fails = False
    assert torch.equal(probed(model, random(4, 6), engine), expected(model, random(4, 6)))


def test_tied_weights_have_one_direction() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.head(self.table(ids))
            return out

    model, ids = Tied(), torch.tensor([1, 7])
    assert list(Engine(model, EngineOptions(distribution="rademacher")).parameters) == ["table.weight"]
    assert torch.equal(probed(model, ids), expected(model, ids))


class Holders(nn.Module):
    """Reads parameters out of containers, which have no forward of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ParameterList([random(6, 6), random(6)])
        self.named = nn.ModuleDict({"one": nn.ParameterDict({"ab": random(6, 6)})})

    def forward(self, inputs: Tensor) -> Tensor:
        named = cast("nn.ParameterDict", self.named["one"])
        out: Tensor = (inputs @ self.listed[0] + self.listed[1]) @ named["ab"]
        return out


def test_parameters_in_containers_belong_to_the_module_that_reads_them() -> None:
    model, inputs = Holders(), random(4, 6)
    engine = Engine(model)
    before = list(model.parameters())
    assert torch.equal(probed(model, inputs, engine), expected(model, inputs))
    assert not engine.unvisited()
    assert all(one is other for one, other in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_compiled_module_is_perturbed_too(wrapped: bool) -> None:
    """Code that was made without hooks must not stand for code with them, whoever was given the compiled module."""
    model, inputs = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)), random(4, 6)
    compiled: nn.Module = cast("Any", torch.compile(model, backend="eager"))
    with torch.no_grad():
        plain = compiled(inputs)
    engine = Engine(compiled if wrapped else model)
    for _ in range(2):
        with torch.no_grad(), engine.perturbed(PLACE, SCALE):
            seen = compiled(inputs)
        assert torch.equal(seen, expected(model, inputs)), "the directions too are those of the plain module"
        with torch.no_grad():
            assert torch.equal(compiled(inputs), plain)
