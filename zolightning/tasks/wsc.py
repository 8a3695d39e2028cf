"""WSC: does a pronoun refer to a noun?"""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.records import Record, flattened
from zolightning.tasks.source import Source
from zolightning.tasks.splits import SplitSizes


class WSC(Task):
    """The Winograd schema challenge (Levesque et al. 2012) as SuperGLUE has it, with MeZO's prompt.

    Of its 554 training rows 454 train and 100 select; MeZO's sizes leave 54 to train on.
    """

    source = Source(hub="aps/super_glue", config="wsc.fixed", train_file="train.jsonl", validation_file="val.jsonl")
    fields = ("text", "span1_text", "span2_text", "label")
    options = ("No", "Yes")
    # The hub has the labels as numbers, the official files as truth values.
    labels: Mapping[str, int] = {"false": 0, "true": 1, "0": 0, "1": 1}
    default_sizes = SplitSizes(454, 100, 1000)

    @override
    def unpack(self, record: Record) -> list[Record]:
        """Lift the spans out of `target`, where the official files have them."""
        return [flattened(record, "target")]

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return (
            f'{fields["text"]}\nIn the previous sentence, does the pronoun "{str(fields["span2_text"]).lower()}" refer '
            f"to {fields['span1_text']}? Yes or No?\n"
        )
