"""PIQA: which of two ways reaches a goal?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.objectives import Objective
from zolightning.tasks.source import Source


class PIQA(Task):
    """Physical interaction questions (Bisk et al. 2020), with the prompt of lm-evaluation-harness."""

    source = Source(
        hub="baber/piqa",
        train_file="train.jsonl",
        validation_file=("validation.jsonl", "valid.jsonl"),
        labels_suffix="-labels.lst",
    )
    fields = ("goal", "sol1", "sol2", "label")
    shown = ("goal",)
    options = ()
    labels: Mapping[str, int] = {"0": 0, "1": 1}
    default_objective: Objective = "lm"

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f"Question: {str(fields['goal']).strip()}\nAnswer:"

    @override
    def option_texts(self, fields: Mapping[str, object]) -> Sequence[str]:
        """Both solutions."""
        return [f" {str(fields[name]).strip()}" for name in ("sol1", "sol2")]
