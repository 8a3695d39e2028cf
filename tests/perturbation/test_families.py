"""Probes inside the forward against really perturbed copies, on tiny models of the families that people fine-tune."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests.helpers.families import PROBED, build, tiny
from tests.helpers.models import tokens
from tests.helpers.reference import direction, materialised
from zolightning.perturbation import bundle, probe
from zolightning.perturbation.engine import Engine
from zolightning.perturbation.noise import Stream
from zolightning.perturbation.options import Distribution, EngineOptions

PLACE = Stream(seed=3, parameter=0, step=5, query=1)
# A weight moves by a multiple of its size, so that no perturbation rounds away and none goes unseen.
SCALE = 0.25


@torch.no_grad()
def logits(model: nn.Module, batch: Tensor) -> Tensor:
    """Return a model's logits at every position [rows, length, vocabulary]."""
    out: Tensor = model(input_ids=batch).logits
    return out


def probed(engine: Engine, model: nn.Module, batch: Tensor) -> Tensor:
    """Return the logits that a probe sees."""
    with engine.perturbed(PLACE, SCALE):
        return logits(model, batch)


@pytest.mark.parametrize("limit", [bundle.LIMIT, 0], ids=["together", "one by one"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", PROBED)
def test_a_probe_equals_a_really_perturbed_copy_bit_for_bit(
    family: str, dtype: torch.dtype, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "LIMIT", limit)
    model, batch = build(family, dtype), tokens(length=7)
    parameters = dict(model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    clean = logits(model, batch)
    distributions: tuple[Distribution, ...] = ("gaussian", "rademacher")
    for distribution in distributions:
        engine = Engine(model, EngineOptions(distribution=distribution))
        z = direction(model, PLACE.seed, PLACE.step, PLACE.query, distribution)
        seen = probed(engine, model, batch)
        assert torch.equal(seen, logits(materialised(model, z, SCALE), batch)), distribution
        assert not torch.equal(seen, clean)
        assert not engine.unvisited()
    assert torch.equal(logits(model, batch), clean)
    for name, parameter in model.named_parameters():
        assert parameter is parameters[name]
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("limit", [bundle.LIMIT, 0], ids=["together", "one by one"])
def test_on_the_sphere_a_probe_equals_a_really_perturbed_copy(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LIMIT", limit)
    model, batch = build("llama", torch.float64), tokens(length=7)
    seen = probed(Engine(model, EngineOptions(distribution="sphere")), model, batch)
    z = direction(model, PLACE.seed, PLACE.step, PLACE.query, "sphere")
    # The radius is summed in float32 over each tile, a relative error of some 1e-7, which logits of about 10 multiply.
    torch.testing.assert_close(seen, logits(materialised(model, z, SCALE), batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "opt", "gpt_neox"])
def test_row_chunks_change_the_last_bits_at_most(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product over fewer rows may add up in another order, which 1e-6 in float64 allows and a wrong row exceeds.

    With 64 and 128 columns, 32 and 16 rows fill a unit of noise, the smallest chunk.
    """
    wide: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "ffn_dim": 128,
        "head_dim": 16,
        "word_embed_proj_dim": 64,
    }
    model, batch = tiny(family, vocab_size=131, **wide), tokens(length=7)
    monkeypatch.setattr(bundle, "LIMIT", 0)
    engine = Engine(model)
    whole = probed(engine, model, batch)
    monkeypatch.setattr(probe, "SCRATCH_BYTES", 1)
    assert probe.rows_at_once(64, 8) == 32
    torch.testing.assert_close(probed(engine, model, batch), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("limit", [bundle.LIMIT, 0], ids=["together", "one by one"])
def test_of_a_model_with_adapters_only_those_are_perturbed_and_hooked(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "LIMIT", limit)
    batch = tokens(length=7)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(tiny("llama", torch.float32), config).eval()
    engine = Engine(model)
    assert all("lora_" in name for name in engine.parameters)
    z = direction(model, PLACE.seed, PLACE.step, PLACE.query)
    assert z.keys() == engine.parameters.keys()
    with engine.perturbed(PLACE, SCALE):
        seen = logits(model, batch)
        hooked = {name for name, module in model.named_modules() if module._forward_pre_hooks}
    assert hooked == {name.removesuffix(".weight") for name in engine.parameters}
    assert torch.equal(seen, logits(materialised(model, z, SCALE), batch))
    assert not torch.equal(seen, logits(model, batch))
    assert not engine.unvisited()
