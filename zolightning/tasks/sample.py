"""The task that the package carries: the sentiment of made-up reviews."""

from __future__ import annotations

from collections.abc import Mapping

from zolightning.tasks.base import Task
from zolightning.tasks.objectives import Objective
from zolightning.tasks.records import Record, read_file
from zolightning.tasks.splits import Splits, split_given


class SampleReviews(Task):
    """Sentiment of the embedded reviews: no download, no network.

    Args:
        batch_size: Training examples per step, over all devices.
        eval_batch_size: Examples per validation, test or prediction batch. Default: four times ``batch_size``.
        num_train: Training examples.
        num_dev: Development examples to select by.
        num_test: Test examples. Only ``test`` and ``predict`` use them.
        options: Other words for the options (negative, positive), each with its leading space.
        objective: ``classification``: cross-entropy over the options' length-normalised log-likelihoods. ``lm``: minus
            the log-likelihood of the right option's tokens, the mean over tokens. Default: ``classification``.
        max_length: The most tokens of a prompt with its longest option. Longer prompts lose their left end.
        data_seed: Of the choice of examples for each split.

    Raises:
        ConfigurationError: If an argument is out of range.
    """

    fields = ("review", "sentiment")
    label_field = "sentiment"
    options = (" bad", " good")
    labels: Mapping[str, int] = {"negative": 0, "positive": 1}

    def __init__(
        self,
        *,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_train: int = 2000,
        num_dev: int = 500,
        num_test: int = 500,
        options: list[str] | None = None,
        objective: Objective | None = None,
        max_length: int = 2048,
        data_seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_train=num_train,
            num_dev=num_dev,
            num_test=num_test,
            options=options,
            objective=objective,
            max_length=max_length,
            data_seed=data_seed,
        )

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return f"{fields['review']} all in all it was"

    def place(self) -> str:
        """Where the records are read from."""
        return "the embedded sample"

    def read(self) -> Splits:
        """Read the embedded files, which are disjoint."""
        train, dev, test = (self._checked(name) for name in ("train", "dev", "test"))
        return split_given(train, dev, test, self.sizes, self.data_seed)

    def _checked(self, name: str) -> list[Record]:
        from zolightning.sample import TASK

        records = read_file(TASK / f"{name}.jsonl")
        self.check(records)
        return records
