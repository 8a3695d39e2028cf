"""TREC: what kind of thing does a question ask for?"""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.cloze import MASK
from zolightning.tasks.source import Source


class TREC(Task):
    """Questions in six classes (Li and Roth 2002), worded by their kinds of answer."""

    source = Source(
        hub="CogComp/trec",
        validation="test",
        train_file="train.jsonl",
        validation_file="test.jsonl",
        rename={"coarse_label": "label"},
    )
    fields = ("text", "label")
    options = (" expression", " entity", " description", " human", " location", " number")
    cloze_options = (" Expression", " Entity", " Description", " Human", " Location", " Number")
    # The official files have abbreviations, the hub numbers.
    labels: Mapping[str, int] = {
        **{name: number for number, name in enumerate(("abbr", "enty", "desc", "hum", "loc", "num"))},
        **{str(number): number for number in range(6)},
    }

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f"Question: {str(fields['text']).strip()}\nType of the answer:"

    @override
    def cloze(self, fields: Mapping[str, object]) -> str:
        """LM-BFF's (arXiv 2012.15723) text with a blank."""
        return f"{MASK}: {str(fields['text']).strip()}"
