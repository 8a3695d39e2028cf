"""WinoGrande: which of two names fills the blank?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import override

from zolightning.tasks.base import Task
from zolightning.tasks.objectives import Objective
from zolightning.tasks.source import Source


class WinoGrande(Task):
    """WinoGrande, size m (Sakaguchi et al. 2019), with ZO-Bench's prompt: an option is a name and all that follows."""

    source = Source(
        hub="allenai/winogrande",
        config="winogrande_m",
        train_file="train_m.jsonl",
        validation_file="validation.jsonl",
    )
    label_field = "answer"
    fields = ("sentence", "option1", "option2", "answer")
    options = ()
    labels: Mapping[str, int] = {"1": 0, "2": 1}
    default_objective: Objective = "lm"

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return str(fields["sentence"]).split("_", 1)[0].rstrip()

    @override
    def plain(self, fields: Mapping[str, object]) -> str:
        """The same: there is no word of ours in it."""
        return self.prompt(fields)

    @override
    def option_texts(self, fields: Mapping[str, object]) -> Sequence[str]:
        """Both names, each with the rest of the sentence."""
        before, _, after = str(fields["sentence"]).partition("_")
        space = before[len(before.rstrip()) :]
        return [f"{space}{fields[name]}{after}" for name in ("option1", "option2")]
