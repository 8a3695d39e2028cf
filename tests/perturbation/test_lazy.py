"""Which parts of a weight are perturbed: what an operation reads, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from tests.helpers.probes import PLACE, SCALE, expected, probed, random
from zolightning.perturbation import bundle, directions, probe
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.directions import Directions
from zolightning.perturbation.engine import Engine
from zolightning.perturbation.lazy import LazyWeight
from zolightning.perturbation.motion import Motion, moved_rows
from zolightning.perturbation.scratch import Scratch


@pytest.fixture(autouse=True)
def all_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight is small enough to be perturbed with the others."""
    monkeypatch.setattr(bundle, "LIMIT", 0)


class Made:
    """Notes what the engine makes: (name, elements) of every fill, and the rows of every look-up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fills: list[tuple[str, int]] = []
        self.rows: list[int] = []
        fill = Directions.fill

        def name_of(this: Directions, motion: Motion) -> str:
            return next(name for name in this.parameters if this.stream(name, PLACE) == motion.streams[0])

        def noted_fill(this: Directions, out: Tensor, weight: Tensor, motion: Motion, first: int) -> None:
            self.fills.append((name_of(this, motion), out.numel()))
            fill(this, out, weight, motion, first)

        def noted_rows(rows: Tensor, starts: Tensor, motion: Motion, compiler: Compiler) -> Tensor:
            self.rows.append(starts.numel())
            return moved_rows(rows, starts, motion, compiler)

        monkeypatch.setattr(Directions, "fill", noted_fill)
        monkeypatch.setattr(directions, "moved_rows", noted_rows)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(monkeypatch)


@pytest.mark.parametrize("ids", [torch.tensor([[4, 1, 4], [0, 9, 1]]), torch.tensor(7), torch.tensor([3, 3]).int()])
def test_an_embedding_makes_the_rows_it_looks_up(ids: Tensor, made: Made) -> None:
    model = nn.Embedding(10, 6)
    assert torch.equal(probed(model, ids), expected(model, ids))
    assert made.rows == [ids.numel()]
    assert not made.fills


def test_no_rows_at_all_are_none(made: Made) -> None:
    model = nn.Embedding(10, 6)
    assert probed(model, torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 6)
    assert not made.fills


def test_indices_of_32_bits_do_not_wrap_in_a_large_table() -> None:
    """Row 2^20 - 1 of 2^12 columns begins beyond 2^31 elements; the table here is one zero, spread out."""
    model = nn.Embedding(2, 2)
    moving = Directions(model, "gaussian", False)
    coefficients = probe.along(moving, PLACE, SCALE)
    here = probe.Probe(moving, [PLACE], coefficients, Scratch(), lambda _name, _rows: None)
    ids = torch.tensor([2**20 - 1, 5])
    table = here.stand_in("weight", torch.zeros(1, 1).expand(2**20, 2**12))
    assert torch.equal(functional.embedding(ids.int(), table), functional.embedding(ids, table))


def test_many_rows_are_made_some_at_a_time(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "_ROWS_AT_ONCE", 20)
    model, ids = nn.Embedding(10, 6), torch.tensor([5, 4, 3, 2, 1, 0, 9])
    assert torch.equal(probed(model, ids), expected(model, ids))
    assert made.rows == [3, 3, 1]


def test_an_embedding_that_renormalises_sees_the_whole_and_leaves_the_weight() -> None:
    model, ids = nn.Embedding(10, 6, max_norm=0.5), torch.tensor([4, 1])
    before = model.weight.detach().clone()
    assert torch.equal(probed(model, ids), expected(model, ids))
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 64), (64,), (0, 64)])
def test_a_linear_map_in_chunks_equals_it_whole(
    shape: tuple[int, ...], bias: bool, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product over fewer rows may add up in another order, which 1e-6 in float64 allows and a wrong row exceeds."""
    model, inputs = nn.Linear(64, 150, bias=bias).double(), random(*shape).double()
    whole = probed(model, inputs)
    assert torch.equal(whole, expected(model, inputs)), "unchunked, to the bit"
    made.fills.clear()
    monkeypatch.setattr(probe, "SCRATCH_BYTES", 2 * 32 * 64 * 8)
    engine = Engine(model)
    torch.testing.assert_close(probed(model, inputs, engine), whole, rtol=0, atol=1e-6)
    assert [size for name, size in made.fills if name == "weight"] == [64 * 64, 64 * 64, 22 * 64]
    assert sum(buffer.nbytes for buffer in engine._scratch._buffers) <= probe.SCRATCH_BYTES + 150 * 8


def test_scratch_is_reused_from_module_to_module_and_probe_to_probe() -> None:
    layers = [nn.Linear(64, 64) for _ in range(6)]
    model, inputs = nn.Sequential(*layers), random(3, 64)
    engine = Engine(model)
    for _ in range(3):
        probed(model, inputs, engine)
    buffers = engine._scratch._buffers
    assert len(buffers) <= 2, "a weight and its bias"
    assert sum(buffer.numel() for buffer in buffers) <= 64 * 64 + 64


def conv1d() -> nn.Module:
    """GPT-2's linear layer, whose weight is transposed."""
    layer: nn.Module = cast("Any", Conv1D)(5, 6)
    return layer


class Custom(nn.Module):
    """A module that uses its weight in a way of one's choice."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(6, 6))
        self.use = use

    def forward(self, inputs: Tensor) -> Tensor:
        return self.use(inputs, self.weight)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda x, w: x @ w,
    "product from the left": lambda x, w: w @ x.mT,
    "property T": lambda x, w: x @ w.T,
    "property mT": lambda x, w: x @ w.mT,
    "t()": lambda x, w: torch.mm(x, w.t()),
    "addmm": lambda x, w: torch.addmm(x.new_zeros(6), x, w),
    "one row": lambda x, w: x * w[2],
    "rows by tensor": lambda x, w: x[:2] * w[torch.tensor([5, 0])],
    "index_select": lambda x, w: x[:2] * w.index_select(0, torch.tensor([5, 0])),
    "another dtype": lambda x, w: functional.linear(x.double(), w.to(torch.float64)).float(),
    "float()": lambda x, w: x * w.float().sum(),
    "data": lambda x, w: x @ w.data,
    "detached": lambda x, w: x @ w.detach(),
    "view": lambda x, w: x * w.view(-1)[7],
    "in a list": lambda x, w: x @ torch.cat([w, w], dim=1)[:, :6],
    "einsum": lambda x, w: torch.einsum("bi,oi->bo", x, w),
    "as the input": lambda x, w: functional.linear(w, x),
    "as input and weight": lambda x, w: x @ functional.linear(w, w),
    "by keyword": lambda x, w: functional.linear(weight=w, input=x),
    "norm": lambda x, w: functional.layer_norm(x, (6,), weight=w[0], bias=w[1]),
    "twice": lambda x, w: functional.linear(functional.linear(x, w), w) + x @ w,
    "convolution": lambda x, w: functional.conv1d(x.unsqueeze(1), w.unsqueeze(1)),
}


@pytest.mark.parametrize("use", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_any_operation_sees_the_perturbed_weight(use: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, inputs = Custom(use), random(4, 6)
    seen = probed(model, inputs)
    assert type(seen) is Tensor
    assert torch.equal(seen, expected(model, inputs))
    with torch.no_grad():
        assert not torch.equal(seen, model(inputs))


@pytest.mark.parametrize("model", [conv1d(), nn.Bilinear(6, 6, 3), nn.Conv1d(4, 3, 2), nn.LayerNorm(6)])
def test_modules_of_other_kinds_see_the_perturbed_weights(model: nn.Module) -> None:
    inputs = random(4, 6)

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x, x) if isinstance(self.inner, nn.Bilinear) else self.inner(x)
            return out

    assert torch.equal(probed(Around(), inputs), expected(Around(), inputs))


def test_shape_dtype_and_device_are_told_without_perturbing(made: Made) -> None:
    told: list[object] = []

    def ask(inputs: Tensor, weight: Tensor) -> Tensor:
        assert isinstance(weight, LazyWeight)
        told.extend((weight.shape, weight.size(0), weight.dim(), weight.ndim, len(weight), weight.numel()))
        told.extend((weight.dtype, weight.device, weight.is_cuda, weight.requires_grad, weight.stride()))
        told.extend((weight.is_contiguous(), weight.is_floating_point(), weight.element_size(), weight.layout))
        return inputs.to(weight.dtype).to(weight.device)

    model = Custom(ask)
    probed(model, random(4, 6))
    weight = model.weight
    assert told[:6] == [weight.shape, 6, 2, 2, 6, 36]
    assert told[6:11] == [weight.dtype, weight.device, False, False, (6, 1)]
    assert told[11:] == [True, True, 4, torch.strided]
    assert not made.fills
    assert not made.rows


def test_a_weight_is_perturbed_once_however_often_it_is_read(made: Made) -> None:
    probed(Custom(lambda x, w: (x @ w) @ w.T + w.sum()), random(4, 6))
    assert made.fills == [("weight", 36)]
