"""MRPC: do two sentences mean the same?"""

from __future__ import annotations

from collections.abc import Mapping

from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score
from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.cloze import MASK
from zolightning.tasks.source import Source
from zolightning.tasks.text import lowered


class MRPC(Task):
    """Paraphrases in news (Dolan and Brockett 2005); accuracy, and F1 of what is a paraphrase."""

    source = Source(
        hub="nyu-mll/glue",
        config="mrpc",
        train_file="train.tsv",
        validation_file="dev.tsv",
        rename={"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"},
    )
    fields = ("sentence1", "sentence2", "label")
    options = ("No", "Yes")
    cloze_options = (" No", " Yes")
    labels: Mapping[str, int] = {"0": 0, "1": 1}

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f"{fields['sentence1']}\n{fields['sentence2']}\nDo these two sentences mean the same? Yes or No?\n"

    @override
    def cloze(self, fields: Mapping[str, object]) -> str:
        """LM-BFF's (arXiv 2012.15723) text with a blank."""
        return f"{fields['sentence1']} {MASK}, {lowered(str(fields['sentence2']))}"

    @override
    def metrics(self) -> MetricCollection:
        return MetricCollection({"accuracy": BinaryAccuracy(), "f1": BinaryF1Score()}, compute_groups=False)
