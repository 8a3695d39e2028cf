"""The check at set-up finds and names whoever reads a weight that is not its own, and leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.helpers.models import language_loss, tiny_llama, tokens
from tests.helpers.reference import direction, materialised
from zolightning.errors import ConfigurationError
from zolightning.optim import ZerothOrderOptimizer
from zolightning.perturbation import bundle
from zolightning.perturbation.options import EngineOptions

EPS = 1e-3


@pytest.fixture(params=["together", "one by one"])
def small_and_large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "one by one":
        monkeypatch.setattr(bundle, "LIMIT", 0)


both_paths = pytest.mark.usefixtures("small_and_large")


class Borrower(nn.Module):
    """A module with a weight of its own that also reads its neighbour's, in a way of one's choice."""

    def __init__(self, lender: nn.Linear, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.own = nn.Linear(4, 4)
        self.lenders = (lender,)  # Not a child: that would make the weight its own.
        self.read = read

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.own(inputs) + functional.linear(inputs, self.read(self.lenders[0].weight))
        return out


class Planted(nn.Module):
    """Two layers, of which the second, some levels down, reads the weight of the first."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.GELU(), nn.Sequential(nn.Identity(), Borrower(self.first, read)))
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.first(inputs)))
        return out


READS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda weight: weight,
    "view": lambda weight: weight.view(-1).view(4, 4),
    "transpose": lambda weight: weight.t(),
    "data": lambda weight: weight.data,
    "detached": lambda weight: weight.detach().clone(),
    "one row": lambda weight: torch.cat([weight[:1], torch.zeros(3, 4)]),
}
INPUTS = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def loss_of(model: nn.Module) -> Callable[[], Tensor]:
    return lambda: model(INPUTS).square().mean()


def sgd(model: nn.Module, **engine: Any) -> ZerothOrderOptimizer:
    return ZerothOrderOptimizer(model, lr=1e-2, eps=EPS, seed=6, engine=EngineOptions(**engine))


class Untouched:
    """Checks that a model's parameters are the same objects with the same bits as at first."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.first = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}

    def check(self) -> None:
        now = dict(self.model.named_parameters())
        assert now.keys() == self.first.keys()
        for name, (parameter, address, value) in self.first.items():
            assert now[name] is parameter
            assert parameter.data_ptr() == address
            assert torch.equal(parameter, value)
            assert parameter.requires_grad
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in self.model.modules())


@both_paths
@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_module_that_reads_its_neighbours_weight_is_named(read: Callable[[Tensor], Tensor]) -> None:
    model = Planted(read)
    untouched = Untouched(model)
    with pytest.raises(ConfigurationError, match=r"^block\.1\.1 reads weights that are not its own") as caught:
        sgd(model).check(loss_of(model))
    assert "engine.probe: in_place" in str(caught.value)
    untouched.check()


@pytest.mark.parametrize("before", [False, True])
def test_a_cast_that_autocast_keeps_hides_nobody(before: bool) -> None:
    model = Planted(READS["whole"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        if before:
            loss_of(model)()
        with pytest.raises(ConfigurationError, match=r"^block\.1\.1 reads"):
            sgd(model).check(loss_of(model))
        assert torch.isfinite(loss_of(model)())


def test_the_first_step_checks_and_moves_nothing_if_the_check_fails() -> None:
    model = Planted(READS["whole"])
    untouched = Untouched(model)
    optimizer = sgd(model)
    with pytest.raises(ConfigurationError, match=r"block\.1\.1"):
        optimizer.step(loss_of(model))
    assert optimizer.step_count == 0
    untouched.check()


def test_every_culprit_is_named() -> None:
    model = Planted(READS["whole"])
    alone = Planted(READS["view"])

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = model, alone

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = self.a(inputs) + self.b(inputs)
            return out

    both = Both()
    with pytest.raises(ConfigurationError, match=r"^a\.block\.1\.1, b\.block\.1\.1 reads"):
        sgd(both).check(loss_of(both))


def test_a_model_that_reads_its_childs_weight_is_named_by_its_class() -> None:
    class Penalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = self.layer(inputs) + self.layer.weight.square().sum()
            return out

    model = Penalised()
    with pytest.raises(ConfigurationError, match=r"^Penalised reads weights"):
        sgd(model).check(loss_of(model))


@both_paths
def test_a_closure_that_reads_a_weight_itself_is_named() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Linear(4, 1))
    untouched = Untouched(model)
    with pytest.raises(ConfigurationError, match=r"^the closure, outside of any module, reads weights"):
        sgd(model).check(lambda: model(INPUTS).mean() + layer.weight.square().sum())
    untouched.check()


def test_a_module_that_fails_on_nan_is_refused_too() -> None:
    def strict(weight: Tensor) -> Tensor:
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("weights must be finite")
        return weight

    model = Planted(strict)
    untouched = Untouched(model)
    with pytest.raises(ConfigurationError, match="fails on a weight of NaN reads weights") as caught:
        sgd(model).check(loss_of(model))
    assert isinstance(caught.value.__cause__, ValueError)
    untouched.check()


@both_paths
def test_a_healthy_model_passes_once_and_is_untouched() -> None:
    model, batch = tiny_llama(), tokens()
    untouched, calls = Untouched(model), 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        return language_loss(model, batch)

    optimizer = sgd(model)
    optimizer.check(loss)
    assert calls == 1
    untouched.check()
    optimizer.step(loss)
    assert calls == 3, "a model that has been checked is not checked again"


@both_paths
def test_a_parameter_that_no_forward_uses_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1), nn.Embedding(3, 2))
    untouched = Untouched(model)
    with pytest.raises(ConfigurationError, match=r"no forward .* used 1\.bias, 1\.weight, 2\.weight through") as caught:
        sgd(model).check(lambda: model[0](INPUTS).mean())
    assert "requires_grad_(False)" in str(caught.value)
    untouched.check()
    model[1].requires_grad_(False)
    model[2].requires_grad_(False)
    sgd(model).check(lambda: model[0](INPUTS).mean())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_anyhow_passes_and_is_left_to_the_guard(bad: float) -> None:
    model = tiny_llama()
    untouched = Untouched(model)
    optimizer = sgd(model)
    optimizer.step(lambda: language_loss(model, tokens()) * bad)
    assert optimizer.guard.counts.tolist() == [1, 1, 1]
    untouched.check()


def test_an_exception_of_the_model_itself_comes_through_and_the_weights_are_back() -> None:
    model = tiny_llama()
    untouched = Untouched(model)

    def fail() -> Tensor:
        language_loss(model, tokens())
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        sgd(model).check(fail)
    untouched.check()


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_in_place_nothing_is_refused_and_the_probe_is_right(read: Callable[[Tensor], Tensor]) -> None:
    model = Planted(read).double()
    inputs = INPUTS.double()
    optimizer = sgd(model, probe="in_place")
    z = direction(model, 6, 0, 0)
    expected: list[Tensor] = [materialised(model, z, scale)(inputs).square().mean() for scale in (EPS, -EPS)]
    optimizer.step(lambda: model(inputs).square().mean())
    assert optimizer.last is not None
    g = (expected[0] - expected[1]) / (2 * EPS)
    torch.testing.assert_close(optimizer.last.projected_gradients, g.detach().view(1), rtol=1e-9, atol=0)


def test_a_module_that_keeps_a_view_of_its_weight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it keeps lies in scratch, where the next module's weight will be."""
    monkeypatch.setattr(bundle, "LIMIT", 0)

    class Keeper(nn.Linear):
        kept: Tensor

        def forward(self, inputs: Tensor) -> Tensor:
            self.kept = self.weight.t()
            return inputs @ self.kept

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keeper, self.linear = Keeper(6, 6, bias=False), nn.Linear(6, 6, bias=False)

        def forward(self) -> Tensor:
            out: Tensor = self.linear(self.keeper(torch.ones(2, 6)))
            return (out @ self.keeper.kept).square().mean()

    model = Model()
    with pytest.raises(ConfigurationError, match="in_place"):
        sgd(model).step(model)
