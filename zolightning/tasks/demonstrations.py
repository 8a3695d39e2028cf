"""In-context learning: solved examples in front of every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from zolightning.models.question import Question
from zolightning.tasks.cloze import MASK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BETWEEN = "\n\n"


def solved(question: Question) -> str:
    """Return a question with its right option as one text.

    Example::

        >>> solved(Question("dull It was", (" terrible", " great"), 0, "train.tsv:2"))
        'dull It was terrible'
    """
    right = question.options[question.answer].rstrip()
    return question.prompt.replace(MASK, right.strip()) if MASK in question.prompt else question.prompt + right


def with_demonstrations(
    questions: Sequence[Question],
    demonstrations: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> list[Question]:
    """Put as many of the demonstrations in front of each question as fit, the first first.

    Args:
        questions: What is asked.
        demonstrations: Solved ones.
        tokenizer: The model's.
        max_length: The most tokens of a prompt with its longest option.
    """
    if not demonstrations or not questions:
        return list(questions)
    shown = [solved(question) + _BETWEEN for question in demonstrations]
    # What all of the first n take.
    taken = list(accumulate(_lengths(shown, tokenizer), initial=0))
    asked = _lengths([question.prompt + max(question.options, key=len) for question in questions], tokenizer)
    made = []
    for question, length in zip(questions, asked, strict=True):
        number = max(count for count, tokens in enumerate(taken) if not count or tokens + length <= max_length)
        made.append(replace(question, prompt="".join(shown[:number]) + question.prompt))
    return made


def _lengths(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]
