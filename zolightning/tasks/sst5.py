"""SST-5: how positive is a sentence of a film review?"""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.cloze import MASK
from zolightning.tasks.source import Source


class SST5(Task):
    """Sentiment of film reviews in five degrees (Socher et al. 2013), worded as SST-2 is."""

    source = Source(
        hub="SetFit/sst5",
        validation="test",
        train_file="train.jsonl",
        validation_file="test.jsonl",
        rename={"text": "sentence"},
    )
    fields = ("sentence", "label")
    options = (" terrible", " bad", " okay", " good", " great")
    cloze_options = options
    labels: Mapping[str, int] = {"0": 0, "1": 1, "2": 2, "3": 3, "4": 4}

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f"{str(fields['sentence']).strip()} It was"

    @override
    def cloze(self, fields: Mapping[str, object]) -> str:
        """LM-BFF's (arXiv 2012.15723) text with a blank."""
        return f"{self.prompt(fields)} {MASK}."
