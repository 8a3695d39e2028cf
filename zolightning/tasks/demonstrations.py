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


def how_many_fit(
    questions: Sequence[Question],
    demonstrations: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> list[int]:
    """Return how many of the demonstrations, the first first, fit in front of each question [questions].

    Args:
        questions: What is asked.
        demonstrations: Solved ones.
        tokenizer: The model's.
        max_length: The most tokens of a prompt with its longest option.
    """
    if not demonstrations or not questions:
        return [0] * len(questions)
    shown = tokenizer([solved(one) + _BETWEEN for one in demonstrations], add_special_tokens=False, verbose=False)
    # What all of the first n take.
    taken = list(accumulate(map(len, shown["input_ids"]), initial=0))
    whole = tokenizer([one.prompt + option for one in questions for option in one.options], verbose=False)
    lengths = iter(map(len, whole["input_ids"]))
    asked = [max(next(lengths) for _ in question.options) for question in questions]
    return [max(n for n, tokens in enumerate(taken) if not n or tokens + length <= max_length) for length in asked]


def with_demonstrations(
    questions: Sequence[Question], demonstrations: Sequence[Question], numbers: Sequence[int]
) -> list[Question]:
    """Return the questions with as many of the demonstrations in front as is said for each [questions]."""
    shown = [solved(question) + _BETWEEN for question in demonstrations]
    return [
        replace(question, prompt="".join(shown[:number]) + question.prompt)
        for question, number in zip(questions, numbers, strict=True)
    ]
