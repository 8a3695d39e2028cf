"""MNLI: does a premise entail a hypothesis, in ten genres?"""

from __future__ import annotations

from zolightning.tasks.inference import Inference
from zolightning.tasks.source import Source


class MNLI(Inference):
    """Multi-genre natural language inference (arXiv 1704.05426), with LM-BFF's text for masked language models.

    Examples to test on are those of the genres that were trained on (matched).
    """

    source = Source(
        hub="nyu-mll/glue",
        config="mnli",
        validation="validation_matched",
        train_file="train.tsv",
        validation_file="dev_matched.tsv",
        rename={"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
    )
