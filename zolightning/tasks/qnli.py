"""QNLI: does a sentence answer a question?"""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.source import Source
from zolightning.tasks.text import with_blank_between


class QNLI(Task):
    """Questions and sentences of SQuAD's passages, as GLUE (arXiv 1804.07461) pairs them."""

    source = Source(hub="nyu-mll/glue", config="qnli", train_file="train.tsv", validation_file="dev.tsv")
    fields = ("question", "sentence", "label")
    options = ("Yes", "No")
    cloze_options = (" Yes", " No")
    labels: Mapping[str, int] = {"entailment": 0, "not_entailment": 1, "0": 0, "1": 1}

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f'{fields["sentence"]}\nDoes this answer the question "{fields["question"]}"? Yes or No?\n'

    @override
    def cloze(self, fields: Mapping[str, object]) -> str:
        """LM-BFF's (arXiv 2012.15723) text with a blank."""
        return with_blank_between(str(fields["question"]), str(fields["sentence"]))
