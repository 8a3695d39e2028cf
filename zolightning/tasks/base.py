"""What every task shares: reading, splitting, tokenising, loading, the loss and the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from zolightning.errors import ConfigurationError
from zolightning.models.batch import Example, OptionBatch, collate
from zolightning.models.scoring import mean_log_likelihoods, option_scores, token_log_likelihoods, token_logits
from zolightning.models.sharing import PromptSharing
from zolightning.tasks.encoding import Question
from zolightning.tasks.loader import EvaluationLoader, LengthGroupedBatches, ResumableLoader
from zolightning.tasks.objectives import (
    Objective,
    check_objective,
    metric_loss,
    metric_to_maximise,
    objective_loss,
    objective_weight,
)
from zolightning.tasks.prepared import PreparedSplits, prepare_splits
from zolightning.tasks.records import Record, read_file
from zolightning.tasks.source import Source
from zolightning.tasks.splits import Splits, SplitSizes, split_official, split_three_ways

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Task(LightningDataModule, ABC):
    """A data set of prompts with answer options. A new task states the class attributes and ``prompt``.

    Args:
        batch_size: Training examples per step, over all devices.
        eval_batch_size: Examples per validation, test or prediction batch. Default: four times ``batch_size``.
        num_train: Training examples, from the official training split. Default: the task's own, 1,000 in most.
        num_dev: Development examples to select by, from the official training split too; none is a training example.
            Default: the task's own, 500 in most.
        num_test: Test examples, from the official validation split, or all of it where it has fewer; 1,000 by default.
            Only ``test`` and ``predict`` use them.
        data_dir: A folder with the official files. Default: the Hugging Face hub, or its local cache.
        options: Other words for the options, in their order, each with its leading space where it needs one.
        objective: ``classification``: cross-entropy over the options' length-normalised log-likelihoods. ``lm``: minus
            the log-likelihood of the right option's tokens, the mean over tokens. ``metric``: minus a metric of the
            batch, for strategies that probe; of micro-batches it is the mean of theirs. Default: the task's own.
        metric: With ``objective: metric``, which of the task's metrics to maximise. Default: its first.
        max_length: The most tokens of a prompt with its longest option. Longer prompts lose their left end.
        data_seed: Of the choice of examples for each split.

    Raises:
        ConfigurationError: If an argument is out of range.
    """

    source: ClassVar[Source | None] = None
    label_field: str = "label"
    fields: tuple[str, ...]
    options: tuple[str, ...]
    labels: Mapping[str, int]
    default_objective: Objective = "classification"
    default_sizes: ClassVar[SplitSizes] = SplitSizes(1000, 500, 1000)

    def __init__(
        self,
        *,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_train: int | None = None,
        num_dev: int | None = None,
        num_test: int | None = None,
        data_dir: str | None = None,
        options: list[str] | None = None,
        objective: Objective | None = None,
        metric: str | None = None,
        max_length: int = 2048,
        data_seed: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = 4 * batch_size if eval_batch_size is None else eval_batch_size
        for name, value in (("batch_size", batch_size), ("eval_batch_size", self.eval_batch_size)):
            if value < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {value}")
        if max_length < 2:
            raise ConfigurationError(
                f"max_length must be at least 2 (a prompt token and an option's), got {max_length}"
            )
        self.sizes = self.default_sizes.but(num_train, num_dev, num_test)
        self.data_dir = None if data_dir is None else Path(data_dir).expanduser()
        self.objective: Objective = self.default_objective if objective is None else objective
        check_objective(self.objective)
        self.max_length = max_length
        self.data_seed = data_seed
        if options is not None:
            if len(options) != len(self.options):
                raise ConfigurationError(
                    f"{type(self).__name__} has {len(self.options)} options {list(self.options)}, got {options}"
                )
            self.options = tuple(options)
        self._metric = metric_to_maximise(self.objective, self.metrics(), metric)
        self._splits: Splits | None = None
        self._prepared: PreparedSplits | None = None
        self._sharing: PromptSharing | None = None
        self.order_seed = 0

    @abstractmethod
    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""

    def option_texts(self, fields: Mapping[str, object]) -> Sequence[str]:
        """The options of one record."""
        return self.options

    def answer(self, record: Record) -> int:
        """The right option of a record.

        Raises:
            ConfigurationError: If the label is none of ``labels``.
        """
        label = record.fields[self.label_field]
        answer = self.labels.get(str(label).strip().lower())
        if answer is None:
            raise ConfigurationError(
                f"{record.origin}: {self.label_field}={label!r} is no label; allowed are {', '.join(self.labels)}"
            )
        return answer

    def metrics(self) -> MetricCollection:
        """Fresh metrics of the predicted options [batch] against the right ones [batch]."""
        classes = max(2, len(self.options))
        return MetricCollection({"accuracy": MulticlassAccuracy(classes, average="micro", validate_args=False)})

    def read(self) -> Splits:
        """Read and split the records."""
        if self.source is None:
            raise ConfigurationError(f"{type(self).__name__} must state its source, or override read()")
        train, validation = self.source.read_hub() if self.data_dir is None else self.source.read_folder(self.data_dir)
        validation = [record for row in validation for record in self.unpack(row)]
        self.check(validation)
        if train is None:
            rank_zero_info(
                f"{self.data_dir}: there is no {self.source.train_file}; train, dev and test examples are all taken "
                f"from {self.source.validation_file}"
            )
            return split_three_ways(validation, self.sizes, self.data_seed, "validation")
        train = [record for row in train for record in self.unpack(row)]
        self.check(train)
        return split_official(train, validation, self.sizes, self.data_seed)

    def unpack(self, record: Record) -> list[Record]:
        """The records that a row of the official files holds: itself, in most tasks."""
        return [record]

    def place(self) -> str:
        """Where the records are read from."""
        if self.data_dir is not None:
            return str(self.data_dir)
        return "no source" if self.source is None else self.source.hub

    def check(self, records: Sequence[Record]) -> None:
        """Refuse records, whether they will be used or not, that lack a field or have an unknown label.

        Raises:
            ConfigurationError: At the first such record.
        """
        for record in records:
            for name in self.fields:
                if record.fields.get(name) is None:
                    found = ", ".join(key for key, value in record.fields.items() if value is not None) or "none"
                    raise ConfigurationError(f"{record.origin}: there is no field {name!r}; found {found}")
            self.answer(record)

    def read_checked(self, path: Path) -> list[Record]:
        """Read a file whose records all have the task's fields and a known label.

        Raises:
            ConfigurationError: If it cannot be read, or at the first record that is not so.
        """
        records = read_file(path)
        self.check(records)
        return records

    def prepare_data(self) -> None:
        """Download what is on the hub, on one process only."""
        if self.source is not None and self.data_dir is None:
            self.source.download()

    def setup(self, stage: str | None = None) -> None:
        """Read and split the records, the first time."""
        if self._splits is not None:
            return
        self._splits = splits = self.read()
        rank_zero_info(
            f"{type(self).__name__}: {len(splits.train):,} train, {len(splits.dev):,} dev, {len(splits.test):,} test "
            f"examples from {self.place()}"
        )

    @property
    def splits(self) -> Splits:
        """The records, after ``setup``."""
        if self._splits is None:
            raise RuntimeError(f"{type(self).__name__}.setup() has not been called")
        return self._splits

    def connect(self, tokenizer: PreTrainedTokenizerBase, max_positions: int | None, *, seed: int) -> None:
        """Tokenise all splits, the first time with this tokenizer and these lengths.

        Args:
            tokenizer: The model's.
            max_positions: The most tokens that the model can read, None if it has no limit.
            seed: Of the order of training batches.

        Raises:
            ConfigurationError: If a record cannot be tokenised as prompt and options.
        """
        self.setup()
        self.order_seed = seed
        limit = self.max_length if max_positions is None else min(self.max_length, max_positions)
        questions = {name: list(map(self._question, rows)) for name, rows in vars(self.splits).items()}
        self._prepared = prepare_splits(questions, tokenizer, limit, known=self._prepared)

    def adapt(self, model: nn.Module) -> None:
        """Lay batches out for a model: where it can, it reads a prompt once for all its options.

        Whether it can is found out when a loader is made: by then the model is on its device. For a task that was never
        told of its model each option has a sequence of its own.
        """
        if self._sharing is None or self._sharing.model is not model:
            self._sharing = PromptSharing(model)

    @property
    def prepared(self) -> PreparedSplits:
        """The tokenised records, after ``connect``."""
        if self._prepared is None:
            raise RuntimeError(f"{type(self).__name__}.connect() has not been called: it needs the model's tokenizer")
        return self._prepared

    def train_dataloader(self) -> ResumableLoader:
        """Training batches, shuffled anew in every epoch."""
        lengths = [example.length for example in self.prepared.examples["train"]]
        order = LengthGroupedBatches(lengths, self.batch_size, self.order_seed)
        examples = self._train_examples()
        return ResumableLoader(examples, order, self._row_limit(examples))

    def few(self, number: int = 2) -> OptionBatch:
        """The first training examples as a batch, to try something out on."""
        examples = self._train_examples()[:number]
        return collate(examples, self._row_limit(examples))

    def val_dataloader(self) -> EvaluationLoader:
        """Development batches."""
        return self._evaluation_loader("dev", longest_first=True)

    def test_dataloader(self) -> EvaluationLoader:
        """Test batches."""
        return self._evaluation_loader("test", longest_first=True)

    def predict_dataloader(self) -> EvaluationLoader:
        """Test batches, in the order of ``splits.test``."""
        return self._evaluation_loader("test", longest_first=False)

    def loss(self, model: nn.Module, batch: OptionBatch) -> Tensor:
        """Mean loss [] of a batch under the task's objective, at least fp32."""
        return self.loss_and_scores(model, batch)[0]

    def scores(self, model: nn.Module, batch: OptionBatch) -> Tensor:
        """Length-normalised log-likelihood of each option [batch, options], -inf where there is none."""
        return option_scores(model, batch)

    def loss_and_scores(self, model: nn.Module, batch: OptionBatch) -> tuple[Tensor, Tensor]:
        """``loss`` from one forward, and of each option a score [batch, options], in the order of ``scores``.

        Where the log-normaliser cancels, the scores leave it out.
        """
        cancels = self.objective != "lm" and batch.one_read_each
        likelihoods = token_logits(model, batch) if cancels else token_log_likelihoods(model, batch)
        scores = mean_log_likelihoods(likelihoods, batch)
        if self._metric is not None:
            return metric_loss(self._metric, scores, batch), scores
        return objective_loss(self.objective, likelihoods, batch), scores

    def loss_weight(self, batch: OptionBatch) -> int:
        """What the mean of ``loss`` runs over: micro-batches' losses with these weights average to the batch's."""
        return objective_weight(self.objective, batch)

    def _train_examples(self) -> Sequence[Example]:
        examples = self.prepared.examples["train"]
        return [example.right for example in examples] if self.objective == "lm" else examples

    def _question(self, record: Record) -> Question:
        options = tuple(self.option_texts(record.fields))
        return Question(self.prompt(record.fields), options, self.answer(record), record.origin)

    def _evaluation_loader(self, split: str, longest_first: bool) -> EvaluationLoader:
        examples = self.prepared.examples[split]
        return EvaluationLoader(examples, self.eval_batch_size, longest_first, self._row_limit(examples))

    def _row_limit(self, examples: Sequence[Example]) -> int:
        return 0 if self._sharing is None else self._sharing.row_limit(examples)
