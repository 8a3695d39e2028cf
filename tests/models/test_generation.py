"""Generation: the likeliest token at each place, whatever a prompt is batched with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tests.helpers.families import tiny
from tests.helpers.schemes import scatter, under
from zolightning.errors import ConfigurationError
from zolightning.models.generation import generate
from zolightning.sample import MODEL

PROMPTS = ["a fine film", "the acting was dull and the plot", "so"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(MODEL)
    return loaded


def greedy(model: nn.Module, prompt: list[int], number: int, end: int | None) -> list[int]:
    """Write token by token, reading everything anew for each."""
    ids = list(prompt)
    for _ in range(number):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == end:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", ["opt", "llama", "mistral", "gpt2", "qwen3"])
def test_texts_are_those_of_a_plain_loop(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny(family, torch.float64)
    rows = [ids[:8] for ids in tokenizer(PROMPTS)["input_ids"]]
    vocabulary = cast("Any", model).config.vocab_size
    rows = [[number % vocabulary for number in row] for row in rows]
    together = generate(model, tokenizer, rows, "\n", 6, CPU)
    for row, text in zip(rows, together, strict=True):
        written = greedy(model, row, 6, tokenizer.eos_token_id)
        expected = str(tokenizer.decode(written, skip_special_tokens=True)).split("\n", 1)[0].strip()
        assert text == expected
        assert generate(model, tokenizer, [row], "\n", 6, CPU) == [text]


def test_a_stop_string_ends_a_text(stories: Path) -> None:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(stories)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    rows = tokenizer(["Once upon a time", "The dog"])["input_ids"]
    whole = generate(model, tokenizer, rows, "\n\n\n", 20, CPU)
    stop = whole[0].split()[2]
    cut = generate(model, tokenizer, rows, stop, 20, CPU)
    assert cut[0] == whole[0].split(stop, 1)[0].strip() != whole[0]
    assert whole[1].startswith(cut[1])


def test_what_a_model_comes_with_changes_nothing(stories: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(stories)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    rows = tokenizer(["Once upon a time"])["input_ids"]
    plain = generate(model, tokenizer, rows, "\n\n\n", 20, CPU)
    model.generation_config.repetition_penalty = 3.0
    assert generate(model, tokenizer, rows, "\n\n\n", 20, CPU) == plain
    assert model.generation_config.repetition_penalty == 3.0


def test_what_cannot_generate(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ConfigurationError, match="Linear cannot generate text"):
        generate(nn.Linear(2, 2), tokenizer, [[1]], "\n", 2, CPU)


@pytest.mark.parametrize("scheme", ["lora", "prefix", "prompt", "head"])
def test_texts_under_a_scheme(scheme: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = under(scheme, "mistral", torch.float64, sliding_window=None)
    scatter(model)
    rows = [[number % 61 for number in ids[:8]] for ids in tokenizer(PROMPTS)["input_ids"]]
    together = generate(model, tokenizer, rows, "\n", 6, CPU)
    for row, text in zip(rows, together, strict=True):
        written = greedy(model, row, 6, tokenizer.eos_token_id)
        assert text == str(tokenizer.decode(written, skip_special_tokens=True)).split("\n", 1)[0].strip()
