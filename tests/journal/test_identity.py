"""What tells a run from others: base weights, what trains, and how."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.methods import METHODS
from zolightning.errors import ConfigurationError
from zolightning.journal import identity
from zolightning.journal.identity import check_same, describe, differences, fingerprint, rebuild
from zolightning.optim.updates import Linear
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.strategies import ZOSGD, BlockwiseZO, ZerothOrder, ZOAdam


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5, dtype=dtype), nn.Linear(5, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_fingerprint_sees_every_bit_and_its_place(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(dtype)
    before = fingerprint(model.named_parameters())
    assert fingerprint(network(dtype).named_parameters()) == before
    monkeypatch.setattr(identity, "_CHUNK", 4)
    assert fingerprint(model.named_parameters()) == before
    weight = next(model.parameters()).data.view(-1)
    first = weight[:2].clone()
    weight[:2] = first.flip(0)
    assert fingerprint(model.named_parameters()) != before
    weight[:2] = first
    assert fingerprint(model.named_parameters()) == before
    bits = weight.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()])
    bits[11] ^= 1
    assert fingerprint(model.named_parameters()) != before


@pytest.mark.parametrize("name", METHODS)
def test_a_description_makes_the_optimizer_again(name: str) -> None:
    strategy = METHODS[name].make(1e-3)
    if not isinstance(strategy, ZerothOrder | BlockwiseZO):
        pytest.skip("it has no journal")
    optimizer = strategy.configure(network())
    assert isinstance(optimizer, ZerothOrderOptimizer)
    if optimizer.irreproducible:
        pytest.skip("it has no journal")
    header = describe(optimizer)
    again = rebuild(network(), header)
    assert describe(again) == header
    assert differences(header, describe(again)) == []
    other = describe(rebuild(network(torch.bfloat16), header))
    assert differences(header, other) == [
        "trained.dtypes is ['float32'] in the journal, ['bfloat16'] here",
    ]


def test_another_run_is_refused_with_what_differs() -> None:
    header = describe(ZOAdam(lr=1.0, eps=1e-3).configure_optimizer(network(), 1))
    other = describe(ZOAdam(lr=1.0, eps=1e-3, betas=(0.8, 0.99)).configure_optimizer(network(), 2))
    with pytest.raises(ConfigurationError) as caught:
        check_same(header, other, "journal.zoj", "Set these as they were")
    assert str(caught.value).splitlines() == [
        "the journal journal.zoj is of another run:",
        "  - seed is 1 in the journal, 2 here",
        "  - optimizer.update.betas is [0.9, 0.999] in the journal, [0.8, 0.99] here",
        "Set these as they were",
    ]


def test_what_is_there_and_not_here_differs_and_the_other_way_round() -> None:
    masked = describe(ZOSGD(lr=1.0, eps=1e-3, mask="random", sparsity=0.5).configure_optimizer(network(), 1))
    dense = describe(ZOSGD(lr=1.0, eps=1e-3).configure_optimizer(network(), 1))
    assert [found.split(" is ")[0] for found in differences(masked, dense)] == ["optimizer.sparsity"]
    assert all(found.startswith("optimizer.sparsity.") for found in differences(dense, masked))
    assert differences(dense, masked)


class Own(Linear):
    def again(self) -> Any:
        return None


def test_what_scalars_do_not_tell_has_no_description() -> None:
    def described(**arguments: Any) -> None:
        describe(ZerothOrderOptimizer(network(), lr=1.0, eps=1e-3, **arguments))

    snip = ZOSGD(lr=1.0, eps=1e-3, mask="snip", sparsity=0.5)
    with pytest.raises(ConfigurationError, match="mask: snip goes by a gradient"):
        described(sparsity=snip.sparse)
    with pytest.raises(ConfigurationError, match="idle_rows: skip moves the rows"):
        described(engine=type(snip.engine)(**asdict(snip.engine) | {"idle_rows": "skip"}))
    with pytest.raises(ConfigurationError, match="Own says that it cannot be repeated"):
        described(update=Own())


def test_a_rule_of_one_s_own_is_not_made_by_name() -> None:
    header = describe(ZOAdam(lr=1.0, eps=1e-3).configure_optimizer(network(), 0))
    header["optimizer"]["update"]["name"] = "os.system"
    with pytest.raises(ConfigurationError, match=r"an update of its own, os\.system: configure its strategy"):
        rebuild(network(), header)
