"""Greedy generation of answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from zolightning.errors import ConfigurationError
from zolightning.perturbation.shards import units_of

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    stop: str,
    max_new_tokens: int,
    device: torch.device,
) -> list[str]:
    """Return what a model writes after each prompt, its likeliest token at each place, up to a stop string.

    Prompts are padded on the left and masked, so that a text does not depend on what it is batched with.

    Args:
        model: a language model that generates.
        tokenizer: the model's.
        prompts: token numbers.
        stop: ends a text, and is no part of it.
        max_new_tokens: ends a text that does not stop.
        device: the model's.

    Raises:
        ConfigurationError: if the model cannot generate.
    """
    from peft import PeftModel
    from transformers import GenerationConfig, GenerationMixin

    if not isinstance(model, GenerationMixin | PeftModel):
        raise ConfigurationError(f"{type(model).__name__} cannot generate text: take a task with options")
    end = tokenizer.eos_token_id
    padding = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    settings = cast("Any", GenerationConfig)(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=end,
        pad_token_id=0 if padding is None else padding,
    )
    texts = [""] * len(prompts)
    for numbers in _together(model, prompts):
        written = _written(model, [prompts[number] for number in numbers], settings, tokenizer, stop, device)
        for number, text in zip(numbers, written, strict=True):
            texts[number] = text.split(stop, 1)[0].strip()
    return texts


def _together(model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Which prompts are written to at once: all, or, where padding would come between, those of one length."""
    from peft import PeftModel

    # Virtual tokens are put before the padding, at positions that the text's ones do not follow.
    if not (isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning):
        return [list(range(len(prompts)))]
    alike: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        alike.setdefault(len(prompt), []).append(number)
    return list(alike.values())


def _written(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    settings: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    stop: str,
    device: torch.device,
) -> list[str]:
    from transformers import StoppingCriteriaList

    longest = max(map(len, prompts))
    ids = [[settings.pad_token_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]

    def stopped(ids: Tensor, _scores: Tensor) -> Tensor:
        texts = tokenizer.batch_decode(ids[:, longest:])
        return torch.tensor([stop in text for text in texts], device=device)

    with _neutral(model):
        written = cast("Any", model).generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=settings,
            # The library's own, by stop_strings, does not know every kind of tokenizer.
            stopping_criteria=StoppingCriteriaList([cast("Any", stopped)]),
            # A forward of sharded weights gathers what all processes hold: none may stop before the others.
            synced_gpus=bool(units_of(model)),
        )
    return tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)


@contextmanager
def _neutral(model: nn.Module) -> Iterator[None]:
    """Keep what a model comes with, such as a penalty for repetition, from changing which token is the likeliest."""
    from peft import PeftModel
    from transformers import GenerationConfig

    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    own, base.generation_config = base.generation_config, cast("Any", GenerationConfig)()
    try:
        yield
    finally:
        base.generation_config = own
