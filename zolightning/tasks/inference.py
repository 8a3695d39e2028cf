"""What the tasks of natural language inference with three answers share."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.records import Record
from zolightning.tasks.text import with_blank_between

# What the annotators did not agree on, as the hub and the official files have it.
_UNKNOWN = frozenset({"-1", "-"})


class Inference(Task):
    """Does a premise entail a hypothesis, contradict it, or neither? A new task states where its records come from."""

    fields = ("premise", "hypothesis", "label")
    options = ("Yes", "Maybe", "No")
    cloze_options = (" Yes", " Maybe", " No")
    labels: Mapping[str, int] = {
        "entailment": 0,
        "neutral": 1,
        "contradiction": 2,
        "0": 0,
        "1": 1,
        "2": 2,
    }

    @override
    def unpack(self, record: Record) -> list[Record]:
        """Leave out records without a label."""
        return [] if str(record.fields.get(self.label_field)) in _UNKNOWN else [record]

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f'{fields["premise"]}\nDoes this mean that "{fields["hypothesis"]}" is true? Yes, No, or Maybe?\n'

    @override
    def cloze(self, fields: Mapping[str, object]) -> str:
        """LM-BFF's (arXiv 2012.15723) text with a blank."""
        return with_blank_between(str(fields["premise"]), str(fields["hypothesis"]))
