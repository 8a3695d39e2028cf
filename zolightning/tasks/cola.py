"""CoLA: is a sentence grammatical?"""

from __future__ import annotations

from collections.abc import Mapping

from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryMatthewsCorrCoef
from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.cloze import MASK
from zolightning.tasks.source import Source


class CoLA(Task):
    """The corpus of linguistic acceptability (arXiv 1805.12471); Matthews' correlation, and accuracy."""

    source = Source(
        hub="nyu-mll/glue",
        config="cola",
        train_file="train.tsv",
        validation_file="dev.tsv",
        columns=("source", "label", "mark", "sentence"),
    )
    fields = ("sentence", "label")
    main_metric = "matthews"
    options = ("No", "Yes")
    cloze_options = (" incorrect", " correct")
    labels: Mapping[str, int] = {"0": 0, "1": 1}

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f"{str(fields['sentence']).strip()}\nIs this sentence grammatical? Yes or No?\n"

    @override
    def cloze(self, fields: Mapping[str, object]) -> str:
        """LM-BFF's (arXiv 2012.15723) text with a blank."""
        return f"{str(fields['sentence']).strip()} This is {MASK}."

    @override
    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {"matthews": BinaryMatthewsCorrCoef(), "accuracy": BinaryAccuracy()}, compute_groups=False
        )
