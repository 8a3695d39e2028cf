"""The task that the package carries: the sentiment of made-up reviews."""

from __future__ import annotations

from collections.abc import Mapping

from zolightning.sample import TASK
from zolightning.tasks.base import Task
from zolightning.tasks.splits import Splits


class SampleReviews(Task):
    """Sentiment of the embedded reviews: no download, no network.

    ``data_dir`` may name a folder of other reviews that ``tools/make_sample.py`` has made. The files train.jsonl,
    dev.jsonl and test.jsonl are disjoint; each split is taken from its own, the test split as far as it goes.
    """

    fields = ("review", "sentiment")
    label_field = "sentiment"
    options = (" bad", " good")
    labels: Mapping[str, int] = {"negative": 0, "positive": 1}

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f"{fields['review']} all in all it was"

    def place(self) -> str:
        """Where the records are read from."""
        return "the embedded sample" if self.data_dir is None else str(self.data_dir)

    def read(self) -> Splits:
        """Read each split from its own file."""
        folder = self.data_dir or TASK
        train, dev, test = (self.read_checked(folder / f"{name}.jsonl") for name in ("train", "dev", "test"))
        return self.plan.keep(train, dev, test)
