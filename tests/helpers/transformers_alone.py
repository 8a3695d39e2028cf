"""Scores by plain transformers: one option at a time, batch size 1, all logits, and nothing of this package.

The score of an option is the mean log-likelihood of its tokens given the prompt. Both are tokenised as one text; the
token that holds the option's first character is its first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

Row = tuple[str, Sequence[str], int]


def mean_log_likelihood(model: nn.Module, ids: list[int], first: int) -> Tensor:
    """Return the mean log-likelihood [] of all tokens from the `first` on, each given those before it."""
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    return torch.stack([logits[at - 1].log_softmax(-1)[ids[at]] for at in range(first, len(ids))]).mean()


@torch.no_grad()
def option_scores_alone(
    model: nn.Module, tokenizer: Any, prompt: str, options: Sequence[str], max_length: int = sys.maxsize
) -> Tensor:
    """Return the score of each option [options]; where the longest does not fit, all lose tokens behind the BOS."""
    texts = [tokenizer(prompt + option) for option in options]
    over = max(0, max(len(text["input_ids"]) for text in texts) - max_length)
    cut = [text["input_ids"][:1] + text["input_ids"][1 + over :] for text in texts]
    firsts = [text.char_to_token(len(prompt)) - over for text in texts]
    return torch.stack([mean_log_likelihood(model, ids, first) for ids, first in zip(cut, firsts, strict=True)])


def load_alone(folder: Path) -> tuple[nn.Module, Any]:
    """Return the model and the tokenizer of a folder, which may hold an adapter alone."""
    adapter = (folder / "adapter_config.json").is_file()
    place = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path if adapter else folder
    model: Any = AutoModelForCausalLM.from_pretrained(place)
    return (PeftModel.from_pretrained(model, str(folder)) if adapter else model).eval(), AutoTokenizer.from_pretrained(
        folder
    )


def accuracy_by_transformers_alone(folder: Path, rows: Sequence[Row]) -> tuple[float, Tensor]:
    """Return the share of rows whose right option scores highest, and all scores [rows, options]."""
    model, tokenizer = load_alone(folder)
    scores = torch.stack([option_scores_alone(model, tokenizer, prompt, options) for prompt, options, _ in rows])
    right = scores.argmax(-1) == torch.tensor([answer for _, _, answer in rows])
    return right.float().mean().item(), scores
