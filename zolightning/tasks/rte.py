"""RTE: does a premise entail a hypothesis?"""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.source import Source
from zolightning.tasks.text import with_blank_between


class RTE(Task):
    """Recognising textual entailment (Dagan et al. 2005 and its successors), with MeZO's prompt."""

    source = Source(
        hub="nyu-mll/glue",
        config="rte",
        train_file="train.jsonl",
        validation_file="val.jsonl",
        rename={"sentence1": "premise", "sentence2": "hypothesis"},
    )
    fields = ("premise", "hypothesis", "label")
    options = ("Yes", "No")
    cloze_options = (" Yes", " No")
    # The hub has the labels as numbers, the official files as words.
    labels: Mapping[str, int] = {"entailment": 0, "not_entailment": 1, "0": 0, "1": 1}

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f'{fields["premise"]}\nDoes this mean that "{fields["hypothesis"]}" is true? Yes or No?\n'

    @override
    def cloze(self, fields: Mapping[str, object]) -> str:
        """LM-BFF's (arXiv 2012.15723) text with a blank."""
        return with_blank_between(str(fields["premise"]), str(fields["hypothesis"]))
