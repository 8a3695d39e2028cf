"""An output head that computes the rows of the option tokens alone: the same losses and gradients, less work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.helpers.families import FAMILIES, tiny
from zolightning.models.batch import OptionBatch, collate
from zolightning.models.question import Example
from zolightning.models.scoring import logits_at, mean_log_likelihoods, option_scores, token_logits
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.strategies import ZOSGD
from zolightning.tasks.objectives import objective_loss

# Ten of 61 tokens, in no order; an example with fewer options than the others.
EXAMPLES = [
    Example([1, 5, 6, 7], [[9], [8], [40]], [0, 0, 0], 1),
    Example([1, 5, 6, 7, 9, 11, 12], [[8], [60]], [0, 0], 0),
    Example([1, 3], [[22], [9], [2]], [0, 0, 0], 2),
]


def head_of(model: nn.Module) -> Any:
    return cast("Any", model).get_output_embeddings()


def widths(model: nn.Module, seen: list[int]) -> None:
    """Note how many logits the head computes for each read."""
    head_of(model).register_forward_hook(lambda _, __, output: seen.append(output.size(-1)))


def short_loss(model: nn.Module, batch: OptionBatch) -> Tensor:
    return objective_loss("classification", token_logits(model, batch), batch)


def full_loss(model: nn.Module, batch: OptionBatch) -> Tensor:
    return cross_entropy(option_scores(model, batch), batch.answers)


def small_lora() -> nn.Module:
    return get_peft_model(tiny("llama"), LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)).double()


def lora_on_the_head() -> nn.Module:
    targets = ["q_proj", "lm_head"]
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets, init_lora_weights=False)
    return get_peft_model(tiny("llama"), config).double().eval()


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{family: partial(tiny, family) for family in FAMILIES},
    "tied llama": lambda: tiny("llama", tie_word_embeddings=True),
    "untied gpt2": lambda: tiny("gpt2", tie_word_embeddings=False),
    "lora": small_lora,
}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_choices_equal_those_of_all_logits(name: str) -> None:
    model, batch = MODELS[name]().eval(), collate(EXAMPLES)
    assert batch.one_read_each
    seen: list[int] = []
    widths(model, seen)
    with torch.no_grad():
        logits, scores = token_logits(model, batch), option_scores(model, batch)
        torch.testing.assert_close(short_loss(model, batch), full_loss(model, batch), rtol=0, atol=1e-12)
    assert seen[:2] == [len({8, 9, 40, 60, 22, 2}), 61]
    short = mean_log_likelihoods(logits, batch)
    assert torch.equal(short.argmax(-1), scores.argmax(-1))
    assert torch.equal(short.isinf(), scores.isinf())
    assert scores[scores.isfinite()].std() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_in_less_precision(dtype: torch.dtype) -> None:
    model, batch = tiny("llama", dtype), collate(EXAMPLES)
    with torch.no_grad():
        short, full = short_loss(model, batch), full_loss(model, batch)
    assert short.dtype == torch.float32
    torch.testing.assert_close(short, full, rtol=0, atol=1e-6 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("name", ["gpt2", "untied gpt2", "gptj", "opt", "lora"])
def test_gradients_equal_those_of_all_logits(name: str) -> None:
    model, batch = MODELS[name](), collate(EXAMPLES)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    got = torch.autograd.grad(short_loss(model, batch), parameters)
    expected = torch.autograd.grad(full_loss(model, batch), parameters)
    for name, left, right in zip(names, got, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("name", ["llama", "tied llama", "gptj", "opt", "lora"])
def test_a_probe_perturbs_the_rows_as_it_would_the_whole_head(name: str) -> None:
    model, batch = MODELS[name](), collate(EXAMPLES)
    optimizer = ZOSGD(lr=1e-3, eps=1e-2).configure(model, seed=3)
    assert isinstance(optimizer, ZerothOrderOptimizer)
    with torch.no_grad():
        still = short_loss(model, batch)
        with optimizer.probe(0, 1e-2):
            short, full = short_loss(model, batch), full_loss(model, batch)
    # The norms round to fp32 in between.
    torch.testing.assert_close(short, full, rtol=0, atol=1e-7)
    assert abs(short - still) > 1e-5


def test_micro_batches_keep_the_batchs_choices() -> None:
    model, batch = tiny("llama"), collate(EXAMPLES)
    with torch.no_grad():
        whole = token_logits(model, batch)
        pieces = torch.cat([token_logits(model, piece) for piece in batch.split(2)])
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("many", [16, 15])
def test_many_options_take_all_logits(many: int) -> None:
    model = tiny("llama")
    batch = collate([Example([1, 5], [[token] for token in range(20, 20 + many)], [0] * many, 0)])
    seen: list[int] = []
    widths(model, seen)
    with torch.no_grad():
        torch.testing.assert_close(short_loss(model, batch), full_loss(model, batch), rtol=0, atol=1e-12)
    assert seen == [61 if many > 15 else 15, 61]


def test_a_head_that_is_no_plain_linear_layer_computes_all_logits() -> None:
    model, batch, seen = lora_on_the_head(), collate(EXAMPLES), list[int]()
    widths(model, seen)
    with torch.no_grad():
        torch.testing.assert_close(short_loss(model, batch), full_loss(model, batch), rtol=0, atol=1e-12)
    assert seen == [61, 61]


def test_a_forward_that_somebody_else_put_on_the_head_stays() -> None:
    model, batch = tiny("llama"), collate(EXAMPLES)
    head = head_of(model)

    def doubling(hidden: Tensor) -> Tensor:
        return 2 * nn.Linear.forward(head, hidden)

    with torch.no_grad():
        plain = token_logits(model, batch)
        head.forward = doubling
        torch.testing.assert_close(token_logits(model, batch), 2 * plain, rtol=0, atol=1e-12)
    assert head.forward is doubling


def test_the_head_reads_its_weight_in_its_forward() -> None:
    model, batch = tiny("llama"), collate(EXAMPLES)
    head = head_of(model)
    true = head.weight

    def swap(module: nn.Module, _: Any) -> None:
        module._parameters["weight"] = nn.Parameter(true * 2)

    def restore(module: nn.Module, _: Any, __: Any) -> None:
        module._parameters["weight"] = true

    with torch.no_grad():
        plain = token_logits(model, batch)
        head.register_forward_pre_hook(swap)
        head.register_forward_hook(restore, always_call=True)
        torch.testing.assert_close(token_logits(model, batch), 2 * plain, rtol=0, atol=1e-12)


def test_the_heads_own_forward_is_back_when_the_forward_fails() -> None:
    model, batch = tiny("llama"), collate(EXAMPLES)
    head = head_of(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("planted")

    handle = head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="planted"):
        token_logits(model, batch)
    handle.remove()
    assert "forward" not in vars(head)
    with torch.no_grad():
        assert logits_at(model, batch).shape == (3, 61)


@pytest.mark.parametrize(
    ("options", "starts", "one"),
    [
        ([[8], [9]], [0, 0], True),
        ([[8], [8, 9]], [0, 0], False),
        # A token each, but behind prompts that end differently: their normalisers do not cancel.
        ([[40, 8], [41, 8]], [1, 1], False),
        ([[40, 8], [40, 9]], [1, 1], True),
    ],
)
def test_when_one_output_scores_all_options(options: list[list[int]], starts: list[int], one: bool) -> None:
    assert collate([Example([1, 5], options, starts, 0)]).one_read_each is one
    assert collate([EXAMPLES[0], Example([1, 5], options, starts, 0)]).one_read_each is one
