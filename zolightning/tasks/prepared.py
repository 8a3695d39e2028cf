"""All of a task's splits as tokens, ready to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from zolightning.models.question import Example, Question
from zolightning.tasks.cache import cache_key, cached
from zolightning.tasks.cloze import encode_cloze
from zolightning.tasks.encoding import check_fast, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PreparedSplits:
    """Tokenised splits.

    Attributes:
        key: A digest of what they were made from.
        examples: The examples of each split by its name.
    """

    key: str
    examples: dict[str, list[Example]]


def prepare_splits(
    questions: Mapping[str, Sequence[Question]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    known: PreparedSplits | None,
    cloze: bool,
) -> PreparedSplits:
    """Tokenise every split and say how many prompts were too long, unless ``known`` was made from the same.

    Args:
        questions: Those of each split by its name.
        tokenizer: The model's.
        max_length: The most tokens of a prompt with its longest option.
        known: What there is already.
        cloze: Whether the prompts have a blank that the options may fill.

    Raises:
        ConfigurationError: If a record cannot be tokenised as prompt and options.
    """
    check_fast(tokenizer)
    everything = [question for split in questions.values() for question in split]
    key = cache_key(everything, tokenizer, max_length, cloze)
    if known is not None and key == known.key:
        return known
    make = encode_cloze if cloze else encode
    examples = cached(key, lambda: make(everything, tokenizer, max_length))
    if cut := sum(example.cut for example in examples):
        rank_zero_info(
            f"{cut:,} of {len(examples):,} prompts did not fit, with their answers, into {max_length:,} tokens and "
            "were cut from the left"
        )
    rest = iter(examples)
    splits = {name: [replace(next(rest), question=question) for question in split] for name, split in questions.items()}
    return PreparedSplits(key, splits)
