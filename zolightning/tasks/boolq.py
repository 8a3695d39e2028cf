"""BoolQ: does a passage say yes or no to a question?"""

from __future__ import annotations

from collections.abc import Mapping

from zolightning.tasks.base import Task
from zolightning.tasks.source import Source


class BoolQ(Task):
    """Yes-or-no questions on a passage (Clark et al. 2019), with MeZO's prompt (its third, with a newline)."""

    source = Source(
        hub="google/boolq", train_file="train.jsonl", validation_file="val.jsonl", rename={"answer": "label"}
    )
    fields = ("passage", "question", "label")
    options = ("Yes", "No")
    labels: Mapping[str, int] = {"true": 0, "false": 1}

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        question = str(fields["question"]).strip().rstrip("?")
        return f"{fields['passage']} {question[:1].upper()}{question[1:]}?\n"
