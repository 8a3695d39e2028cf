"""Option scores against a naive reference: one option at a time, batch size 1, all logits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config

from tests.helpers.families import FAMILIES, tiny
from tests.helpers.options import MULTI, RAGGED, SINGLE, reference
from zolightning.errors import ConfigurationError
from zolightning.models.batch import OptionBatch, collate
from zolightning.models.question import Example
from zolightning.models.scoring import logits_at, option_scores, token_log_likelihoods

SETS = pytest.mark.parametrize("examples", [SINGLE, MULTI, RAGGED], ids=["single", "multi", "ragged"])


@SETS
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_one_option_at_a_time(family: str, examples: list[Example]) -> None:
    model = tiny(family)
    with torch.no_grad():
        scores = option_scores(model, collate(examples))
        expected = reference(model, examples)
    # Its attention, with capped scores, rounds a softmax to float32.
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6 if family == "gemma2" else 1e-10)
    assert expected[expected.isfinite()].std() > 1e-3


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_soft_capping_behind_the_head_still_applies(family: str) -> None:
    model = tiny(family)
    batch = collate(RAGGED)
    with torch.no_grad():
        logits = logits_at(model, batch)
    assert logits.shape == (batch.rows.numel(), 61)
    assert logits.abs().max() <= 0.5


@SETS
def test_gradients_equal_the_reference(examples: list[Example]) -> None:
    # Not Llama, whose norms round to fp32 in between.
    model = tiny("gpt2")
    finite = torch.nan_to_num(option_scores(model, collate(examples)), neginf=0.0)
    names, parameters = zip(*model.named_parameters(), strict=True)
    got = torch.autograd.grad(finite.square().sum(), parameters)
    expected = torch.autograd.grad(torch.nan_to_num(reference(model, examples), neginf=0.0).square().sum(), parameters)
    for name, left, right in zip(names, got, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_fp32_whatever_the_weights_are(dtype: torch.dtype) -> None:
    model = tiny("llama", dtype)
    batch = collate(RAGGED)
    with torch.no_grad():
        scores = option_scores(model, batch)
        expected = reference(copy.deepcopy(model).double(), RAGGED)
    assert scores.dtype == torch.float32
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=tolerance)


def test_absent_tokens_score_zero_and_absent_options_minus_infinity() -> None:
    model = tiny("gpt2")
    batch = collate(RAGGED)
    with torch.no_grad():
        likelihoods, scores = token_log_likelihoods(model, batch), option_scores(model, batch)
    assert (likelihoods != 0).sum(-1).tolist() == batch.counts.tolist()
    assert torch.equal(scores.isinf(), batch.counts == 0)


def padded(batch: OptionBatch, pad: int) -> OptionBatch:
    ids = batch.input_ids.clone()
    lengths = [length for extent in batch.extents for length in extent.lengths]
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = pad
    return replace(batch, input_ids=ids)


def test_padding_tokens_do_not_matter() -> None:
    model = tiny("opt")
    with torch.no_grad():
        zeros, others = (option_scores(model, padded(collate(RAGGED), pad)) for pad in (0, 17))
    torch.testing.assert_close(zeros, others, rtol=0, atol=1e-12)


def test_the_head_is_given_each_read_once_and_other_hooks_on_it_run() -> None:
    model = tiny("llama")
    head = cast("Any", model).get_output_embeddings()
    seen: list[torch.Size] = []
    true = head.weight

    def swap(module: nn.Module, _: Any) -> None:
        module._parameters["weight"] = nn.Parameter(true * 2)

    def restore(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.append(output.shape)
        module._parameters["weight"] = true

    batch = collate(SINGLE)
    assert batch.input_ids.shape == (3, 7)
    with torch.no_grad():
        plain = logits_at(model, batch)
        head.register_forward_pre_hook(swap)
        head.register_forward_hook(restore, always_call=True)
        doubled = logits_at(model, batch)
    assert seen == [(1, 3, 61)]
    torch.testing.assert_close(doubled, 2 * plain)
    assert head.weight is true
    # The hook that gathers is gone.
    assert len(head._forward_pre_hooks) == 1


def test_the_hook_is_removed_when_the_forward_fails() -> None:
    model = tiny("llama")
    batch = collate(SINGLE)
    with pytest.raises(IndexError):
        logits_at(model, replace(batch, input_ids=batch.input_ids + 1000))
    assert not cast("Any", model).get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize(
    "scheme",
    [
        lambda: LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"], init_lora_weights=False),
        lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["lora", "prefix", "prompt"],
)
@SETS
def test_inside_a_peft_wrapper(scheme: Callable[[], Any], examples: list[Example]) -> None:
    model = get_peft_model(tiny("llama"), scheme()).double().eval()
    with torch.no_grad():
        scores = option_scores(model, collate(examples))
        virtual = getattr(model.active_peft_config, "num_virtual_tokens", 0)
        expected = reference(_Trimmed(model, virtual), examples)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)


class _Trimmed(nn.Module):
    """Drops the virtual tokens' logits, where the wrapper returns them."""

    def __init__(self, model: nn.Module, virtual: int) -> None:
        super().__init__()
        self.model, self.virtual = model, virtual

    def forward(self, input_ids: Tensor) -> Any:
        output = self.model(input_ids=input_ids)
        output.logits = output.logits[:, output.logits.size(1) - input_ids.size(1) :]
        return output


def test_a_model_without_output_embeddings_is_refused() -> None:
    from transformers import GPT2Model

    model = GPT2Model(GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2))
    batch = collate(SINGLE)
    with pytest.raises(ConfigurationError, match="GPT2Model has no output embeddings"):
        option_scores(model, batch)


def test_a_model_that_does_not_call_its_head_is_refused() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny("llama")
            self.idle = nn.Linear(1, 1)

        def get_output_embeddings(self) -> nn.Module:
            return self.idle

        def forward(self, **inputs: Any) -> Any:
            return self.model(**inputs)

    with pytest.raises(ConfigurationError, match="does not call its output embeddings"):
        option_scores(Functional(), collate(SINGLE))
