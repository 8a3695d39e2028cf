"""SIQA: what do people do, feel and want?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.objectives import Objective
from zolightning.tasks.source import Source

_CHOICES = ("answerA", "answerB", "answerC")


class SIQA(Task):
    """Social interaction questions (arXiv 1904.09728), worded as questions with sentences to choose from."""

    source = Source(
        hub="lighteval/siqa", train_file="train.jsonl", validation_file="dev.jsonl", labels_suffix="-labels.lst"
    )
    fields = ("context", "question", *_CHOICES, "label")
    shown = ("context", "question")
    options = ()
    labels: Mapping[str, int] = {"1": 0, "2": 1, "3": 2}
    default_objective: Objective = "lm"

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f"{str(fields['context']).strip()}\nQuestion: {str(fields['question']).strip()}\nAnswer:"

    @override
    def option_texts(self, fields: Mapping[str, object]) -> Sequence[str]:
        """The three answers."""
        return [f" {str(fields[name]).strip()}" for name in _CHOICES]
