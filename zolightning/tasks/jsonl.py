"""The user's own labelled file, described in YAML alone."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from zolightning.errors import ConfigurationError
from zolightning.tasks.base import Task
from zolightning.tasks.objectives import Objective
from zolightning.tasks.splits import Splits


class JsonlTask(Task):
    """Classification of the records of a JSONL, TSV or CSV file.

    Args:
        train: The file with training and development examples.
        prompt: The prompt, with fields of the records in braces: ``"{review} All in all it was"``.
        label: The field that holds the label.
        options: The words for each label, with their leading space where they need one:
            ``{neg: " bad", pos: " good"}``.
        validation: The file with test examples. Default: ``train`` is split three ways.
        data_dir: The folder that relative file names start from. Default: the working directory.
        batch_size: Training examples per step, over all devices.
        eval_batch_size: Examples per validation, test or prediction batch. Default: four times ``batch_size``.
        num_train: Training examples; 1,000 by default.
        num_dev: Development examples to select by, 500 by default; none is a training example.
        num_test: Test examples, 1,000 by default, or as many as there are. Only ``test`` and ``predict`` use them.
        objective: ``classification``: cross-entropy over the options' length-normalised log-likelihoods. ``lm``: minus
            the log-likelihood of the right option's tokens, the mean over tokens. ``metric``: minus a metric of the
            batch, for strategies that probe; of micro-batches it is the mean of theirs. Default: the task's own.
        metric: With ``objective: metric``, which of the task's metrics to maximise. Default: its first.
        max_length: The most tokens of a prompt with its longest option. Longer prompts lose their left end.
        data_seed: Of the choice of examples for each split.

    Raises:
        ConfigurationError: If an argument is out of range, or the prompt is no template.
    """

    def __init__(
        self,
        *,
        train: str,
        prompt: str,
        label: str,
        options: dict[str, str],
        validation: str | None = None,
        data_dir: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_train: int | None = None,
        num_dev: int | None = None,
        num_test: int | None = None,
        objective: Objective | None = None,
        metric: str | None = None,
        max_length: int = 2048,
        data_seed: int = 0,
    ) -> None:
        if len(options) < 2:
            raise ConfigurationError(f"options must name the words of at least two labels, got {options}")
        self.template = prompt
        self.label_field = label
        if label in _field_names(prompt):
            raise ConfigurationError(f"prompt={prompt!r} tells the label, {{{label}}}, which the model is to find")
        self.fields = (*_field_names(prompt), label)
        self.options = tuple(options.values())
        self.labels = {str(value).strip().lower(): index for index, value in enumerate(options)}
        if len(self.labels) < len(options):
            raise ConfigurationError(f"options has labels that differ in case only: {', '.join(options)}")
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_train=num_train,
            num_dev=num_dev,
            num_test=num_test,
            data_dir=data_dir,
            objective=objective,
            metric=metric,
            max_length=max_length,
            data_seed=data_seed,
        )
        folder = self.data_dir or Path()
        self.train_path = folder / Path(train).expanduser()
        self.validation_path = None if validation is None else folder / Path(validation).expanduser()
        if self.validation_path is not None and self.validation_path.resolve() == self.train_path.resolve():
            raise ConfigurationError(
                f"validation is the training file, {train}; set it to null, and test examples are split off that file"
            )

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return self.template.format_map(fields)

    def place(self) -> str:
        """Where the records are read from."""
        return " and ".join(str(path) for path in (self.train_path, self.validation_path) if path is not None)

    def read(self) -> Splits:
        """Read and split the records."""
        train = self.read_checked(self.train_path)
        if self.validation_path is None:
            rank_zero_info(f"validation is null: train, dev and test examples are all taken from {self.train_path}")
            return self.plan.split(None, train)
        return self.plan.split(train, self.read_checked(self.validation_path), label=self.answer)


def _field_names(template: str) -> tuple[str, ...]:
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise ConfigurationError(
            f"prompt={template!r} is no template ({error}); write a brace that is meant as such twice"
        ) from error
    names = [name or "" for _, name, _, _ in fields]
    if any(form or conversion for _, _, form, conversion in fields):
        raise ConfigurationError(f"prompt={template!r}: braces hold a field's name alone, with no ':' or '!' behind it")
    if bad := [name for name in names if not name or name.isdigit() or set(name) & set(".[")]:
        raise ConfigurationError(f"prompt={template!r}: braces must hold a field's name, got {{{bad[0]}}}")
    if not names:
        raise ConfigurationError(f"prompt={template!r} has no field of the records in braces, such as {{review}}")
    return tuple(dict.fromkeys(names))
