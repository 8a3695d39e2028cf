"""SST-2: is a sentence of a film review positive?"""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.cloze import MASK
from zolightning.tasks.source import Source


class SST2(Task):
    """Sentiment of film reviews (Socher et al. 2013), with MeZO's prompt."""

    source = Source(hub="stanfordnlp/sst2", train_file="train.tsv", validation_file="dev.tsv")
    fields = ("sentence", "label")
    options: tuple[str, ...] = (" terrible", " great")
    cloze_options = options
    labels: Mapping[str, int] = {"0": 0, "1": 1}

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f"{str(fields['sentence']).strip()} It was"

    @override
    def cloze(self, fields: Mapping[str, object]) -> str:
        """LM-BFF's (arXiv 2012.15723) text with a blank."""
        return f"{self.prompt(fields)} {MASK}."
