"""Solved examples in front of prompts: as many as fit, none of them asked or trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.tasks.test_base import connected, folder, small
from zolightning.errors import ConfigurationError
from zolightning.models.question import Question
from zolightning.tasks.cloze import MASK
from zolightning.tasks.demonstrations import how_many_fit, solved, with_demonstrations
from zolightning.tasks.encoding import encode

__all__ = ("folder",)


def question(prompt: str) -> Question:
    return Question(prompt, (" x", " y"), 1, "file:1")


def test_solved() -> None:
    assert solved(question("a b")) == "a b y"
    assert solved(question(f"a {MASK}.")) == "a y."
    assert solved(Question("Q:", (" Ann\n",), 0, "file:1")) == "Q: Ann"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), max_size=5),
    asked=st.integers(1, 9),
    limit=st.integers(16, 60),
    reserved=st.integers(0, 4),
)
def test_as_many_as_fit(
    words: PreTrainedTokenizerFast, sizes: list[int], asked: int, limit: int, reserved: int
) -> None:
    shown = [question("a" * size) for size in sizes]
    questions = [replace(question("b" * asked), reserved=reserved)]
    (packed,) = with_demonstrations(questions, shown, how_many_fit(questions, shown, words, limit))
    texts = [solved(one) + "\n\n" for one in shown]
    number = next(n for n in range(len(texts), -1, -1) if packed.prompt == "".join(texts[:n]) + "b" * asked)
    (example,) = encode([packed], words, 10_000)
    # An option here is a token long.
    beyond = max(0, reserved - 1)
    assert example.length + beyond <= limit or not number
    if number < len(texts):
        more = question("".join(texts[: number + 1]) + packed.prompt[-asked:])
        # Lengths are summed over texts, each with the tokens that the tokenizer puts before it.
        assert encode([more], words, 10_000)[0].length + beyond + number + 2 > limit


def test_a_task_s_demonstrations_are_not_trained_on(folder: Path, words: PreTrainedTokenizerFast) -> None:
    task = connected(folder, words, shots=2)
    trained = [example.question for example in task.prepared.examples["train"]]
    asked = {question.prompt.split("\n\n")[-1] for question in trained if question is not None}
    shown = [solved(one) for one in map(task.question, task.splits.train) if one.prompt not in asked]
    assert len(shown) == 2
    for split in ("train", "dev", "test"):
        for example in task.prepared.examples[split]:
            assert example.question is not None
            assert example.question.prompt.startswith("\n\n".join(shown))
    assert len(task.prepared.examples["train"]) == 18
    with pytest.raises(ConfigurationError, match="shots must be at least 0, got -1"):
        small(folder, shots=-1)
    with pytest.raises(ConfigurationError, match="shots=21 are more than the 20 training examples"):
        connected(folder, words, shots=21)
    task = connected(folder, words, shots=20)
    assert len(task.test_dataloader()) == 1
    with pytest.raises(ConfigurationError, match="shots=20 leave no example to train on"):
        task.few()
