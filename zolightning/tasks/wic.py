"""WiC: does a word mean the same in two sentences?"""

from __future__ import annotations

from collections.abc import Mapping

from zolightning.tasks.base import Task
from zolightning.tasks.source import Source


class WiC(Task):
    """Words in context (Pilehvar and Camacho-Collados 2019), with MeZO's prompt."""

    source = Source(hub="aps/super_glue", config="wic", train_file="train.jsonl", validation_file="val.jsonl")
    fields = ("word", "sentence1", "sentence2", "label")
    options = ("No", "Yes")
    # The hub has the labels as numbers, the official files as truth values.
    context = "sentence1"
    labels: Mapping[str, int] = {"false": 0, "true": 1, "0": 0, "1": 1}

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return (
            f'Does the word "{fields["word"]}" have the same meaning in these two sentences? Yes, No?\n'
            f"{fields['sentence1']}\n{fields['sentence2']}\n"
        )
