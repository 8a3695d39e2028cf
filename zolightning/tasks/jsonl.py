"""The user's own labelled file, described in YAML alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.tasks.base import Calibration, Task
from zolightning.tasks.cloze import MASK
from zolightning.tasks.objectives import Objective
from zolightning.tasks.own_files import OwnFiles, field_names
from zolightning.tasks.records import Record
from zolightning.tasks.splits import Splits


class JsonlTask(Task):
    """Classification of the records of a JSONL, TSV or CSV file.

    Args:
        train: The file with training and development examples.
        prompt: The prompt, with fields of the records in braces: ``"{review} All in all it was"``; for a masked
            language model with a blank, ``<mask>``.
        label: The field that holds the label: a key of ``options``, or the number of an option from 0, or its text.
        options: The words for each label, with their leading space where they need one:
            ``{neg: " bad", pos: " good"}``; or the field that holds each record's own list of options.
        validation: The file with test examples. Default: ``train`` is split three ways.
        data_dir: The folder that relative file names start from. Default: the working directory.
        batch_size: Training examples per step, over all devices.
        eval_batch_size: Examples per validation, test or prediction batch. Default: four times ``batch_size``.
        num_train: Training examples; 1,000 by default.
        num_dev: Development examples to select by, 500 by default; none is a training example.
        num_test: Test examples, 1,000 by default, or as many as there are. Only ``test`` and ``predict`` use them.
        k_shot: Instead of ``num_train`` and ``num_dev``, this many examples of each label to train on, and as many to
            select by.
        objective: ``classification``: cross-entropy over the options' length-normalised log-likelihoods. ``lm``: minus
            the log-likelihood of the right option's tokens, the mean over tokens. ``metric``: minus a metric of the
            batch, for strategies that probe; of micro-batches it is the mean of theirs. Default: the task's own.
        metric: With ``objective: metric``, which of the task's metrics to maximise. Default: its main one.
        shots: Solved examples in front of every prompt, as many of them as fit, drawn from the training examples, which
            they no longer belong to.
        calibration: What dev and test options are compared by. ``none``: length-normalised log-likelihood. ``sfc``: how
            much likelier the prompt makes them than one without the record's first field (arXiv 2104.08315).
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
        options: dict[str, str] | str,
        validation: str | None = None,
        data_dir: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_train: int | None = None,
        num_dev: int | None = None,
        num_test: int | None = None,
        k_shot: int | None = None,
        objective: Objective | None = None,
        metric: str | None = None,
        shots: int = 0,
        calibration: Calibration = "none",
        max_length: int = 2048,
        data_seed: int = 0,
    ) -> None:
        self.template = prompt
        self.label_field = label
        names = field_names(prompt)
        if label in names:
            raise ConfigurationError(f"prompt={prompt!r} tells the label, {{{label}}}, which the model is to find")
        self.options_field = options if isinstance(options, str) else None
        self.fields = (*names, label) if isinstance(options, dict) else (*names, label, options)
        words = options if isinstance(options, dict) else {}
        if isinstance(options, dict) and len(options) < 2:
            raise ConfigurationError(f"options must name the words of at least two labels, got {options}")
        self.options = self.cloze_options = tuple(words.values())
        self.labels = {str(value).strip().lower(): index for index, value in enumerate(words)}
        if len(self.labels) < len(words):
            raise ConfigurationError(f"options has labels that differ in case only: {', '.join(words)}")
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_train=num_train,
            num_dev=num_dev,
            num_test=num_test,
            k_shot=k_shot,
            data_dir=data_dir,
            objective=objective,
            metric=metric,
            shots=shots,
            calibration=calibration,
            max_length=max_length,
            data_seed=data_seed,
        )
        self.files = OwnFiles.found(train, validation, self.data_dir)

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        if MASK in self.template:
            raise ConfigurationError(f"prompt={self.template!r} has a blank, which only a masked language model fills")
        return self.template.format_map(fields)

    @override
    def cloze(self, fields: Mapping[str, object]) -> str:
        """The prompt, which must have a blank."""
        if MASK not in self.template:
            raise ConfigurationError(f"prompt={self.template!r} needs a blank, {MASK}, for a masked language model")
        return self.template.format_map(fields)

    @override
    def option_texts(self, fields: Mapping[str, object]) -> Sequence[str]:
        """The options of one record."""
        if self.options_field is None:
            return self.options
        options = fields[self.options_field]
        if not isinstance(options, list) or len(options) < 2:
            raise ConfigurationError(
                f"options={self.options_field} must name a field with a list of two options or more, got {options!r}"
            )
        return [str(option) for option in options]

    @override
    def answer(self, record: Record) -> int:
        """The right option of a record.

        Raises:
            ConfigurationError: If the label is none, or no option.
        """
        if self.options_field is None:
            return super().answer(record)
        label, options = record.fields[self.label_field], list(self.option_texts(record.fields))
        found = {options.index(str(label))} if str(label) in options else set[int]()
        if isinstance(label, int) and 0 <= label < len(options):
            found.add(label)
        if len(found) == 1:
            return found.pop()
        if found:
            raise ConfigurationError(
                f"{record.origin}: {self.label_field}={label!r} is one of the options {options} and the number of "
                "another: write labels as options"
            )
        raise ConfigurationError(
            f"{record.origin}: {self.label_field}={label!r} is neither one of the options {options} nor a number of one"
        )

    @override
    def settings(self) -> dict[str, object]:
        return super().settings() | {"prompt": self.template}

    def place(self) -> str:
        """Where the records are read from."""
        return str(self.files)

    def read(self) -> Splits:
        """Read and split the records."""
        return self.files.split(self)
