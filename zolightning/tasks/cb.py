"""CB: does somebody commit to a statement?"""

from __future__ import annotations

from collections.abc import Mapping

from zolightning.tasks.base import Task
from zolightning.tasks.source import Source
from zolightning.tasks.splits import SplitSizes


class CB(Task):
    """CommitmentBank (de Marneffe et al. 2019), three-way entailment, with MeZO's prompt."""

    source = Source(hub="aps/super_glue", config="cb", train_file="train.jsonl", validation_file="val.jsonl")
    fields = ("premise", "hypothesis", "label")
    options = ("Yes", "No", "Maybe")
    # The hub has the labels as numbers, the official files as words.
    labels: Mapping[str, int] = {"entailment": 0, "contradiction": 1, "neutral": 2, "0": 0, "1": 1, "2": 2}
    default_sizes = SplitSizes(150, 100, 1000)

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f'Suppose {fields["premise"]} Can we infer that "{fields["hypothesis"]}"? Yes, No, or Maybe?\n'
