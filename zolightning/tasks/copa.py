"""COPA: what is the cause, or the effect?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.objectives import Objective
from zolightning.tasks.source import Source
from zolightning.tasks.splits import SplitSizes
from zolightning.tasks.text import lowered


class COPA(Task):
    """Choice of plausible alternatives (Roemmele et al. 2011), with MeZO's prompt; the options are sentences."""

    source = Source(hub="aps/super_glue", config="copa", train_file="train.jsonl", validation_file="val.jsonl")
    fields = ("premise", "choice1", "choice2", "question", "label")
    shown = ("premise",)
    options = ()
    labels: Mapping[str, int] = {"0": 0, "1": 1}
    default_objective: Objective = "lm"
    default_sizes = SplitSizes(300, 100, 1000)

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        premise = str(fields["premise"]).rstrip().removesuffix(".")
        return premise + (" so" if fields["question"] == "effect" else " because")

    @override
    def option_texts(self, fields: Mapping[str, object]) -> Sequence[str]:
        """Both choices as the rest of the sentence."""
        return [f" {lowered(str(fields[name]))}" for name in ("choice1", "choice2")]
