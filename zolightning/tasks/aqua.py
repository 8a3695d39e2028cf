"""AQuA: which of five numbers solves an algebraic word problem?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.source import Source


class AQuA(Task):
    """Algebra questions with rationales (arXiv 1705.04146): the five answers are in the prompt, an option is a letter.

    The rationales are not used. Examples to test on are those of the official test file.
    """

    source = Source(
        hub="deepmind/aqua_rat",
        config="raw",
        validation="test",
        train_file="train.json",
        validation_file="test.json",
    )
    label_field = "correct"
    fields = ("question", "options", "correct")
    options = (" A", " B", " C", " D", " E")
    labels: Mapping[str, int] = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        choices = "\n".join(choice.replace(")", ") ", 1) for choice in cast("Sequence[str]", fields["options"]))
        return f"Question: {str(fields['question']).strip()}\n{choices}\nAnswer:"

    @override
    def plain(self, fields: Mapping[str, object]) -> str:
        """The question and the choices."""
        return "\n".join((str(fields["question"]).strip(), *cast("Sequence[str]", fields["options"])))
