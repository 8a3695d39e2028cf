"""The user's own file of prompts and answers to write, described in YAML alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.tasks.generation import GenerationTask
from zolightning.tasks.objectives import Objective
from zolightning.tasks.own_files import OwnFiles, field_names
from zolightning.tasks.records import Record
from zolightning.tasks.splits import Splits


class JsonlGeneration(GenerationTask):
    r"""Generation of answers to the records of a JSONL, TSV or CSV file, judged by F1 and exact match.

    Args:
        train: The file with training and development examples.
        prompt: The prompt, with fields of the records in braces: ``"Question: {question}\nAnswer:"``.
        answer: The field that holds the right answer, or a list of them, of which the first is trained on.
        validation: The file with test examples. Default: ``train`` is split three ways.
        data_dir: The folder that relative file names start from. Default: the working directory.
        stop: The string that ends an answer.
        max_new_tokens: The most tokens of an answer.
        batch_size: Training examples per step, over all devices.
        eval_batch_size: Examples per validation, test or prediction batch. Default: four times ``batch_size``.
        num_train: Training examples; 1,000 by default.
        num_dev: Development examples to select by, 500 by default; none is a training example.
        num_test: Test examples, 1,000 by default, or as many as there are. Only ``test`` and ``predict`` use them.
        objective: ``lm``: minus the log-likelihood of the answer's tokens, the mean over tokens. ``metric``: minus a
            metric of what the model writes, for strategies that probe. Default: ``lm``.
        metric: With ``objective: metric``, ``f1`` or ``exact_match``. Default: ``f1``.
        shots: Solved examples in front of every prompt, as many of them as fit, drawn from the training examples, which
            they no longer belong to.
        max_length: The most tokens of a prompt with its answer. Longer prompts lose their left end.
        data_seed: Of the choice of examples for each split.

    Raises:
        ConfigurationError: If an argument is out of range, or the prompt is no template.
    """

    def __init__(
        self,
        *,
        train: str,
        prompt: str,
        answer: str,
        validation: str | None = None,
        data_dir: str | None = None,
        stop: str = "\n",
        max_new_tokens: int = 50,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_train: int | None = None,
        num_dev: int | None = None,
        num_test: int | None = None,
        objective: Objective | None = None,
        metric: str | None = None,
        shots: int = 0,
        max_length: int = 2048,
        data_seed: int = 0,
    ) -> None:
        if not stop or max_new_tokens < 1:
            raise ConfigurationError(
                f"stop must be a string and max_new_tokens at least 1, got {stop!r} and {max_new_tokens}"
            )
        self.template = prompt
        self.answer_field = answer
        self.stop = stop
        self.max_new_tokens = max_new_tokens
        names = field_names(prompt)
        if answer in names:
            raise ConfigurationError(f"prompt={prompt!r} tells the answer, {{{answer}}}, which the model is to write")
        self.fields = (*names, answer)
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_train=num_train,
            num_dev=num_dev,
            num_test=num_test,
            data_dir=data_dir,
            objective=objective,
            metric=metric,
            shots=shots,
            max_length=max_length,
            data_seed=data_seed,
        )
        self.files = OwnFiles.found(train, validation, self.data_dir)

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that the answer is to follow."""
        return self.template.format_map(fields)

    def golds(self, fields: Mapping[str, object]) -> Sequence[str]:
        """The answers in the record."""
        held = fields[self.answer_field]
        return [str(answer).strip() for answer in (held if isinstance(held, list) else [held])]

    @override
    def answer(self, record: Record) -> int:
        """The only option.

        Raises:
            ConfigurationError: If there is no right answer, or one that the stop string would end.
        """
        number = super().answer(record)
        for gold in self.golds(record.fields):
            if self.stop in gold:
                raise ConfigurationError(f"{record.origin}: the answer {gold!r} holds {self.stop!r}: set another stop")
        return number

    @override
    def settings(self) -> dict[str, object]:
        return super().settings() | {"prompt": self.template}

    def place(self) -> str:
        """Where the records are read from."""
        return str(self.files)

    @override
    def read(self) -> Splits:
        """Read and split the records."""
        return self.files.split(self)
