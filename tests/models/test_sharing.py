"""A prompt that is computed once for all its options: the same results as with a prompt for each, fewer tokens."""

from __future__ import annotations

import warnings
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn

from tests.helpers.families import SIZES, tiny
from zolightning.models.batch import collate
from zolightning.models.question import Example
from zolightning.models.scoring import option_scores, token_log_likelihoods
from zolightning.models.sharing import PromptSharing


def example(prompt: int, seed: int) -> Example:
    """Eight options of three tokens, the last the beginning of another's beginning, behind a prompt of some tokens."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 61, (prompt + 24,), generator=draw).tolist()
    options = [tokens[prompt + 3 * index :][:3] for index in range(8)]
    options[7] = [*options[0][:2], 4]
    return Example(tokens[:prompt], options, [0] * 8, answer=seed % 8)


LONG = [example(prompt, seed) for seed, prompt in enumerate((9, 4, 13, 9))]
RAGGED = [
    # " 8" alone begins the second; the fourth has a start of its own that is no option's.
    Example([1, 5, 6], [[8], [8, 9, 10], [20, 21], [33, 34, 35]], [0, 0, 0, 1], 2),
    Example([1, 5, 6, 7, 33], [[40, 8], [41, 42, 3]], [1, 1], 0),
    Example([], [[1, 8], [2, 9, 10, 11]], [1, 1], 1),
    Example([1, 4], [[8], [9]], [0, 0], 1),
]
SETS = pytest.mark.parametrize("examples", [LONG, RAGGED], ids=["long", "ragged"])
SHARING = ["llama", "opt", "gpt2", "gptj", "gpt_neox", "mistral", "qwen3", "phi"]


def unwindowed(family: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    settings: dict[str, Any] = {"sliding_window": None} if family == "mistral" else {}
    return tiny(family, dtype, **settings)


@SETS
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", SHARING)
def test_scores_equal_those_of_a_prompt_for_each_option(family: str, attention: str, examples: list[Example]) -> None:
    model = unwindowed(family)
    cast("Any", model).set_attn_implementation(attention)
    limit = PromptSharing(model).row_limit(examples)
    assert limit == 64
    together, apart = collate(examples, limit), collate(examples)
    with torch.no_grad():
        scores, expected = option_scores(model, together), option_scores(model, apart)
    # Some families' softmax and norms round to fp32 in between.
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-10 if attention == "sdpa" else 1e-5)
    assert together.input_ids.size(0) == len(examples)
    assert together.num_tokens < apart.num_tokens


@pytest.mark.parametrize("family", SHARING)
def test_scores_in_single_precision(family: str) -> None:
    model = unwindowed(family, torch.float32)
    with torch.no_grad():
        scores = option_scores(model, collate(LONG, PromptSharing(model).row_limit(LONG)))
        expected = option_scores(model, collate(LONG))
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", SHARING)
def test_half_precision_shares(family: str, dtype: torch.dtype) -> None:
    assert PromptSharing(unwindowed(family, dtype)).row_limit(LONG) == 64


def test_fewer_tokens_are_read() -> None:
    prompts = sum(len(one.prompt) for one in LONG)
    # Seven tails of two tokens: the eighth begins as the first does.
    assert collate(LONG, 64).num_tokens == prompts + 4 * 7 * 2
    assert collate(LONG).num_tokens == 7 * prompts + 4 * 7 * 2
    assert [extent.lengths for extent in collate(LONG, 64).extents] == [(23,), (18,), (27,), (23,)]
    # The first token of each option is scored by one read.
    assert {extent.reads for extent in collate(LONG, 64).extents} == {1 + 7 * 2}


def test_a_batch_with_a_longer_row_has_a_prompt_for_each_option() -> None:
    assert collate(LONG, 27).segments is not None
    for batch in (collate(LONG, 26), collate(LONG)):
        assert batch.segments is None
        assert batch.input_ids.size(0) == 4 * 7


def test_one_token_options_need_no_mask() -> None:
    batch = collate([RAGGED[3]] * 2, 64)
    assert batch.segments is None
    assert PromptSharing(tiny("llama")).row_limit([RAGGED[3]]) == 0


@SETS
@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches(examples: list[Example], size: int) -> None:
    model, whole = tiny("llama"), collate(examples, 64)
    pieces = whole.split(size)
    with torch.no_grad():
        scores = torch.cat([option_scores(model, piece) for piece in pieces])
        torch.testing.assert_close(scores, option_scores(model, whole), rtol=0, atol=1e-10)
    assert all(piece.segments is not None and piece.segments.shape == piece.input_ids.shape for piece in pieces)
    assert sum(piece.num_tokens for piece in pieces) == whole.num_tokens


@SETS
@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neox", "phi"])
def test_gradients_equal_those_of_a_prompt_for_each_option(family: str, examples: list[Example]) -> None:
    # Not Llama and its like, whose norms round to fp32 in between.
    model = tiny(family)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def gradients(limit: int) -> tuple[Tensor, ...]:
        return torch.autograd.grad(token_log_likelihoods(model, collate(examples, limit)).square().sum(), parameters)

    for name, left, right in zip(names, gradients(64), gradients(0), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-7, msg=name)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_a_window_bounds_the_rows(family: str) -> None:
    assert PromptSharing(tiny(family)).row_limit(LONG) == 0
    assert PromptSharing(tiny(family, sliding_window=20)).row_limit(LONG) == 20


def test_a_window_that_no_list_names_is_noticed(said: list[str]) -> None:
    model = tiny("mistral")
    config: Any = model.config
    config.sliding_window = None
    sharing = PromptSharing(model)
    # Reaches across the second example with any of its options, but not across the others.
    config.sliding_window = 8
    assert sharing.row_limit([LONG[1]]) == 64
    assert said == []
    assert sharing.row_limit(LONG) == 0
    assert said == [
        "MistralForCausalLM with sdpa attention does not compute options side by side as it does apart: each option is "
        "read with a prompt of its own"
    ]
    assert sharing.row_limit(LONG) == 0
    assert len(said) == 1


@pytest.mark.parametrize("scheme", [PrefixTuningConfig, PromptTuningConfig])
def test_virtual_tokens_in_front(scheme: Any, said: list[str]) -> None:
    model = get_peft_model(tiny("llama"), scheme(task_type="CAUSAL_LM", num_virtual_tokens=3)).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert PromptSharing(model).row_limit(LONG) == 0
    assert len(said) == 1


def test_lora_shares() -> None:
    model = get_peft_model(tiny("llama"), LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)).double()
    model.eval()
    limit = PromptSharing(model).row_limit(LONG)
    assert limit == 64
    with torch.no_grad():
        scores, expected = (option_scores(model, collate(LONG, rows)) for rows in (limit, 0))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-10)


OTHERS: dict[str, dict[str, Any]] = {
    "mamba": {"vocab_size": 61, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2},
    "bloom": {"vocab_size": 61, "hidden_size": 16, "n_layer": 2, "n_head": 4},
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"]},
}


@pytest.mark.parametrize("family", OTHERS)
def test_models_that_mix_tokens_otherwise(family: str, said: list[str]) -> None:
    assert PromptSharing(tiny(family, torch.float32, **OTHERS[family])).row_limit(LONG) == 0
    assert len(said) == 1


def test_other_attention_is_not_even_tried(said: list[str]) -> None:
    model = tiny("llama")
    config: Any = model.config
    config._attn_implementation = "flash_attention_2"
    assert PromptSharing(model).row_limit(LONG) == 0
    assert "with flash_attention_2 attention" in said[0]


def test_the_question_leaves_no_trace_and_is_asked_once() -> None:
    model = tiny("opt", dropout=0.5).train()
    cast("Any", model).get_input_embeddings().eval()
    modes = [module.training for module in model.modules()]
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    sharing, state = PromptSharing(model), torch.random.get_rng_state()
    assert sharing.row_limit(LONG) == 64
    asked = len(forwards)
    assert sharing.row_limit(LONG[:2]) == 64
    assert len(forwards) == asked
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
