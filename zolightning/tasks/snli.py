"""SNLI: does a caption entail another?"""

from __future__ import annotations

from zolightning.tasks.inference import Inference
from zolightning.tasks.source import Source


class SNLI(Inference):
    """Stanford natural language inference (arXiv 1508.05326), with LM-BFF's text for masked language models."""

    source = Source(
        hub="stanfordnlp/snli",
        train_file="snli_1.0_train.jsonl",
        validation_file="snli_1.0_dev.jsonl",
        rename={"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
    )
