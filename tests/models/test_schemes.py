"""Fine-tuning schemes: what trains, where adapters begin, what is probed and what is computed."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.families import tiny
from tests.helpers.models import language_loss, tokens
from tests.helpers.options import MULTI, RAGGED, SINGLE, reference
from tests.helpers.probes import PLACE, SCALE
from tests.helpers.reference import direction, materialised
from tests.helpers.schemes import (
    FAMILIES,
    SCHEMES,
    VIRTUAL,
    ByHand,
    Text,
    backbone,
    combinations,
    scatter,
    table_of,
    under,
)
from zolightning.errors import ConfigurationError
from zolightning.models.adapters import Adapter, LoRA, Prefix, Prompt, VirtualTokens, random_tokens
from zolightning.models.batch import collate
from zolightning.models.question import Example
from zolightning.models.schemes import Scheme
from zolightning.models.scoring import option_scores
from zolightning.models.sharing import PromptSharing
from zolightning.perturbation.engine import Engine
from zolightning.strategies import ZOSGD

every_family = pytest.mark.parametrize("family", FAMILIES)
virtual = pytest.mark.parametrize("scheme", VIRTUAL)
every_combination = pytest.mark.parametrize(("scheme", "family"), combinations())
TEXT = tokens(length=7)


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the logits of the text's tokens [rows, length, vocabulary]."""
    out: Tensor = model(input_ids=ids, use_cache=False).logits
    return out[:, out.size(1) - ids.size(1) :]


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# What trains


@every_combination
def test_only_the_schemes_parameters_train(scheme: str, family: str) -> None:
    names = trained(under(scheme, family))
    everything = set(dict(backbone(family, scheme).named_parameters()))
    layer = {name for name in everything if any(f".{place}." in name for place in ("layers.1", "h.1"))}
    first = {name for name in everything if any(f".{place}." in name for place in ("layers.0", "h.0"))}
    biases = {name for name in everything if name.endswith(".bias")}
    expected = {
        "full": everything,
        "head": {"lm_head.weight"},
        "bias_only": biases,
        "one layer": layer,
        "biases of one layer": biases & first,
        "prefix": {"prompt_encoder.default.embedding.weight"},
        "prompt": {"prompt_encoder.default.embedding.weight"},
    }
    assert names
    if scheme == "lora":
        places = {"c_attn"} if family == "gpt2" else {"q_proj", "v_proj"}
        assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in names} == places
        assert len(names) == 2 * 2 * len(places)
    else:
        assert names == expected[scheme]


def test_settings_of_the_papers_and_others() -> None:
    for scheme, rank, scale in ((Scheme("lora"), 8, 2.0), (Scheme(LoRA(r=2, alpha=6)), 2, 3.0)):
        model: Any = scheme.apply(backbone("llama", "lora"))
        place = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
        assert place.lora_A.default.weight.shape == (rank, 16)
        assert place.scaling == {"default": scale}
    # Keys and values of two layers, two heads of four each: half as many heads as queries have.
    assert table_of(under("prefix", "mistral")).shape == (5, 2 * 2 * 2 * 4)
    assert table_of(Scheme(Prefix(3)).apply(backbone("mistral", "prefix"))).shape == (3, 32)
    assert table_of(under("prompt", "mistral")).shape == (10, 16)
    # As wide as the embeddings, which OPT may widen after them.
    assert table_of(Scheme(Prompt(2)).apply(backbone("opt", "prompt"))).shape == (2, 8)
    assert trained(Scheme(LoRA(targets=["fc1"])).apply(backbone("opt", "lora"))) >= {
        "base_model.model.model.decoder.layers.0.fc1.lora_A.default.weight"
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scheme", ["lora", "prefix", "prompt"])
def test_adapters_are_float32_at_least(scheme: str, dtype: torch.dtype) -> None:
    model = under(scheme, "llama", dtype)
    kinds = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert kinds == {True: torch.promote_types(dtype, torch.float32), False: dtype}
    assert logits(model, TEXT).isfinite().all()


@virtual
def test_what_peft_keeps_outside_of_modules_moves_with_them(scheme: str) -> None:
    model: Any = under(scheme, "llama").to("meta")
    # As a forward begins; on this device none would come to its end.
    for hook in model._forward_pre_hooks.values():
        hook(model, ())
    assert model.prompt_tokens["default"].is_meta


@pytest.mark.parametrize("scheme", ["lora", "prefix", "prompt"])
def test_the_seed_alone_makes_an_adapter(scheme: str) -> None:
    def made(seed: int, noise: int) -> list[Tensor]:
        base = backbone("llama", scheme)
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        model = SCHEMES[scheme].apply(base, seed=seed)
        assert scheme != "lora" or torch.equal(torch.get_rng_state(), state)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    assert all(torch.equal(*pair) for pair in zip(made(1, 5), made(1, 6), strict=True))
    assert not all(torch.equal(*pair) for pair in zip(made(1, 5), made(2, 5), strict=True))


# Where virtual tokens begin


@virtual
@every_family
def test_virtual_tokens_begin_as_random_tokens_in_front_of_the_text(family: str, scheme: str) -> None:
    """Mistral's window of four hides most of them from the text: as it would if they were read."""
    model, base = under(scheme, family), backbone(family, scheme)
    drawn = random_tokens(base, SCHEMES[scheme].virtual_tokens, seed=3)
    whole = torch.cat([drawn.expand(len(TEXT), -1), TEXT], 1)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, TEXT), logits(base, whole)[:, len(drawn) :], rtol=0, atol=1e-5)
        if family != "mistral":
            assert not torch.allclose(logits(model, TEXT), logits(base, TEXT), rtol=0, atol=1e-2)


def test_lora_begins_as_the_backbone() -> None:
    with torch.no_grad():
        assert torch.equal(logits(under("lora", "llama"), TEXT), logits(backbone("llama", "lora"), TEXT))


@every_family
def test_a_tied_head_gets_a_weight_of_its_own(family: str) -> None:
    base = backbone(family, "head", tie_word_embeddings=True)
    with torch.no_grad():
        before = logits(base, TEXT)
        model: Any = Scheme("head").apply(base)
        assert torch.equal(logits(model, TEXT), before)
        inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert torch.equal(inputs, outputs)
        outputs.add_(1.0)
        assert not torch.equal(inputs, outputs)
    assert not model.config.tie_word_embeddings
    assert trained(model) == {"lm_head.weight"}


# What is computed


@pytest.mark.parametrize("examples", [SINGLE, MULTI, RAGGED], ids=["single", "multi", "ragged"])
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if "bias" not in scheme])
@every_family
def test_scores_equal_one_option_at_a_time(family: str, scheme: str, examples: list[Example]) -> None:
    """Of a prefix and a prompt, those of the backbone alone; sharing is what the model turns out to allow."""
    model = under(scheme, family, sliding_window=None) if family == "mistral" else under(scheme, family)
    scatter(model)
    by_hand = model
    if scheme in VIRTUAL:
        base = backbone(family, scheme, sliding_window=None) if family == "mistral" else backbone(family, scheme)
        by_hand = ByHand(base, scheme, table_of(model))
    with torch.no_grad():
        expected = reference(by_hand, examples).float()
        limit = PromptSharing(model).row_limit(examples)
        for rows, size in itertools.product({0, limit}, (1, 2, 100)):
            pieces = collate(examples, rows).split(size)
            scores = [option_scores(model, piece) for piece in pieces]
            torch.testing.assert_close(torch.cat(scores), expected, rtol=0, atol=1e-5)
    several = any(len(example.tails) > 1 for example in examples)
    assert (limit > 0) == (several and scheme not in VIRTUAL)


@virtual
def test_scores_with_a_window_equal_one_option_at_a_time(scheme: str) -> None:
    model = under(scheme, "mistral")
    scatter(model)
    by_hand = ByHand(backbone("mistral", scheme), scheme, table_of(model))
    with torch.no_grad():
        expected = reference(by_hand, RAGGED).float()
        torch.testing.assert_close(option_scores(model, collate(RAGGED)), expected, rtol=0, atol=1e-5)


# What is probed


@every_combination
def test_a_probe_equals_a_really_moved_copy(scheme: str, family: str) -> None:
    model = under(scheme, family)
    scatter(model)
    engine = Engine(model)
    z = direction(model, PLACE.seed, PLACE.step, PLACE.query)
    with torch.no_grad():
        before = logits(model, TEXT)
        with engine.perturbed(PLACE, SCALE):
            seen = logits(model, TEXT)
        assert torch.equal(seen, logits(materialised(model, z, SCALE), TEXT))
        assert not torch.equal(seen, before)
        assert torch.equal(logits(model, TEXT), before)
    assert engine.unvisited() == []
    strategy = ZOSGD(lr=1e-3, eps=1e-3)
    strategy.check(strategy.configure(model, seed=0), lambda: language_loss(Text(model), TEXT))


@virtual
@every_family
def test_projected_gradients_are_those_of_backpropagation(family: str, scheme: str) -> None:
    model = under(scheme, family, torch.float64)
    scatter(model)
    z = direction(model, PLACE.seed, PLACE.step, PLACE.query)
    table, eps = table_of(model), 1e-4
    (gradient,) = torch.autograd.grad(language_loss(Text(model), TEXT), table)
    sides, engine = [], Engine(model)
    for scale in (eps, -eps):
        with torch.no_grad(), engine.perturbed(PLACE, scale):
            sides.append(language_loss(Text(model), TEXT))
    expected = (gradient * next(iter(z.values()))).sum()
    # Other families' norms round to float32 in between, an error of 1e-7 or so that the difference divides by 2e-4.
    tolerance = 1e-6 if family in ("gpt2", "opt") else 1e-3
    assert expected.abs() > 5 * tolerance
    torch.testing.assert_close((sides[0] - sides[1]) / (2 * eps), expected, rtol=0, atol=tolerance)


# What is refused


@pytest.mark.parametrize(
    ("kind", "layers", "message"),
    [
        ("bias", None, "scheme must be one of full, bias_only, head, lora, prefix, prompt, got 'bias'"),
        ("prefix", [0], "goes with scheme full or bias_only"),
        ("head", [0], "goes with scheme full or bias_only"),
        (LoRA(), [0], "goes with scheme full or bias_only"),
        ("full", [], "or null for all"),
        ("full", [-1], "counted from 0"),
        (LoRA(r=0), None, "r must be at least 1, got 0"),
        (LoRA(alpha=-1), None, "alpha must be at least 1, got -1"),
        (LoRA(targets=[]), None, "targets must name at least one module"),
        (Prefix(0), None, "tokens must be at least 1, got 0"),
        (Prompt(0), None, "tokens must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense(kind: Any, layers: list[int] | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Scheme(kind, layers)


@pytest.mark.parametrize(
    ("scheme", "family", "message"),
    [
        (Scheme("bias_only"), "llama", "LlamaForCausalLM has no biases, so"),
        (Scheme("bias_only", [1]), "mistral", r"MistralForCausalLM has no biases in its layers \[1\]"),
        (Scheme("full", [0, 2]), "gpt2", r"layers=\[0, 2\]: GPT2LMHeadModel has 2, numbered from 0 to 1"),
        (Scheme(LoRA(targets=["query"])), "opt", "OPTForCausalLM to put low-rank adapters on"),
        (Scheme("lora"), "olmo2", r"such as \[q_proj, v_proj\]"),
    ],
)
def test_what_a_model_lacks_shows_before_its_weights_are_loaded(scheme: Scheme, family: str, message: str) -> None:
    model = cast("Any", tiny(family, vocab_size=61, hidden_size=16, num_hidden_layers=2, num_attention_heads=4))
    with pytest.raises(ConfigurationError, match=message):
        scheme.check(model.config)


@every_combination
def test_what_a_model_has_is_found_without_its_weights(scheme: str, family: str) -> None:
    config = backbone(family, scheme).config
    before = config.to_dict()
    SCHEMES[scheme].check(config)
    assert config.to_dict() == before


def test_a_model_without_keys_and_values_has_no_prefix() -> None:
    model: Any = tiny("mamba", torch.float32, vocab_size=61, hidden_size=16, state_size=4, num_hidden_layers=2)
    with pytest.raises(ConfigurationError, match="so it cannot have a prefix"):
        Scheme("prefix").apply(model)


def test_layers_that_cannot_be_told_by_number() -> None:
    model: Any = tiny("llama", torch.float32)
    model.more = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    with pytest.raises(ConfigurationError, match="2 layers, but 4 modules look like one"):
        Scheme("full", [0]).apply(model)


# What it is called


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        (Scheme(), "full"),
        (Scheme("prefix"), "prefix"),
        (Scheme(Prefix()), "prefix"),
        (Scheme(LoRA(r=2)), "LoRA(r=2, alpha=16, targets=None)"),
        (Scheme("bias_only", [2, 0, 2]), "bias_only and model.layers=[0, 2]"),
    ],
)
def test_a_name_tells_schemes_apart(scheme: Scheme, name: str) -> None:
    assert str(scheme) == name


def test_every_adapter_has_a_name() -> None:
    named = {type(scheme.adapter) for scheme in SCHEMES.values() if scheme.adapter is not None}
    assert named == {*Adapter.__subclasses__(), *VirtualTokens.__subclasses__()} - {VirtualTokens}
