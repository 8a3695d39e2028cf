"""In-context learning: solved examples in front of every prompt."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from zolightning.errors import ConfigurationError
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


def draw(questions: Sequence[Question], number: int, seed: int) -> tuple[list[Question], list[Question]]:
    """Return the questions to show solved, and the rest, both in their order.

    Raises:
        ConfigurationError: If there are fewer than so many.
    """
    if number > len(questions):
        raise ConfigurationError(f"shots={number:,} are more than the {len(questions):,} training examples: set fewer")
    drawn = set(random.Random(seed).sample(range(len(questions)), number))
    shown = [question for place, question in enumerate(questions) if place in drawn]
    return shown, [question for place, question in enumerate(questions) if place not in drawn]


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
        max_length: The most tokens of a prompt with its longest option, or with what is reserved for an answer.
    """
    if not demonstrations or not questions:
        return [0] * len(questions)
    shown = tokenizer([solved(one) + _BETWEEN for one in demonstrations], add_special_tokens=False, verbose=False)
    # What all of the first n take.
    taken = list(accumulate(map(len, shown["input_ids"]), initial=0))
    whole = tokenizer([one.prompt + option for one in questions for option in one.options], verbose=False)
    lengths = iter(map(len, whole["input_ids"]))
    prompts = map(len, tokenizer([question.prompt for question in questions], verbose=False)["input_ids"])
    asked = [
        max(prompt + question.reserved, *(next(lengths) for _ in question.options))
        for question, prompt in zip(questions, prompts, strict=True)
    ]
    return [max(n for n, tokens in enumerate(taken) if not n or tokens + length <= max_length) for length in asked]


def announce(numbers: Sequence[int], shots: int) -> None:
    """Say how many solved examples stand in front of the test prompts [questions], of so many that were asked for."""
    if not numbers:
        return
    few, most = min(numbers), max(numbers)
    shown = f"{most}" if few == most else f"{few} to {most}, on average {statistics.mean(numbers):.1f},"
    why = "" if few == shots else ": no more fit into max_length or the model's positions"
    rank_zero_info(f"{shown} of {shots} solved examples stand in front of each test prompt{why}")


def with_demonstrations(
    questions: Sequence[Question], demonstrations: Sequence[Question], numbers: Sequence[int]
) -> list[Question]:
    """Return the questions with as many of the demonstrations in front as is said for each [questions]."""
    shown = [solved(question) + _BETWEEN for question in demonstrations]
    return [
        replace(question, prompt="".join(shown[:number]) + question.prompt)
        for question, number in zip(questions, numbers, strict=True)
    ]
