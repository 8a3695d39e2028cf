"""What every task shares: reading, splitting, tokenising, loading, the loss and the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from zolightning.errors import ConfigurationError, check_choice
from zolightning.models.batch import OptionBatch, collate
from zolightning.models.question import Example, Question
from zolightning.models.sharing import PromptSharing
from zolightning.tasks.demonstrations import announce, draw, how_many_fit, with_demonstrations
from zolightning.tasks.loader import EvaluationLoader, LengthGroupedBatches, ResumableLoader
from zolightning.tasks.objectives import Objective, metric_to_maximise
from zolightning.tasks.prepared import PreparedSplits, prepare_splits
from zolightning.tasks.records import Record
from zolightning.tasks.scored import Scored
from zolightning.tasks.source import Source
from zolightning.tasks.splits import SplitPlan, Splits, SplitSizes
from zolightning.tasks.wording import PromptStyle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Calibration = Literal["none", "sfc"]

# Of a split's questions without their context.
_NULL = "null "


class Task(Scored, LightningDataModule):
    """A data set of prompts with answer options. A new task states the class attributes and ``prompt``.

    Args:
        batch_size: Training examples per step, over all devices.
        eval_batch_size: Examples per validation, test or prediction batch, over all devices. Default: four times
            ``batch_size``.
        num_train: Training examples, from the official training split. Default: the task's own, 1,000 in most.
        num_dev: Development examples to select by, from the official training split too; none is a training example.
            Default: the task's own, 500 in most.
        num_test: Test examples, from the official validation split, or all of it where it has fewer; 1,000 by default.
            Only ``test`` and ``predict`` use them.
        k_shot: Instead of ``num_train`` and ``num_dev``, this many examples of each label to train on, and as many to
            select by; 16 or 512 in MeZO's runs of masked language models.
        data_dir: A folder with the official files. Default: the Hugging Face hub, or its local cache.
        prompt: ``aligned``, which reads like text that models were trained on; or ``plain``, the fields and no word of
            ours, which shows what alignment is worth.
        options: Other words for the options, in their order, each with its leading space where it needs one.
        objective: ``classification``: cross-entropy over the options' length-normalised log-likelihoods. ``lm``: minus
            the log-likelihood of the right option's tokens, the mean over tokens. ``metric``: minus a metric of the
            batch, for strategies that probe; of micro-batches and processes it is the mean of theirs. Default: the
            task's own.
        metric: With ``objective: metric``, which of the task's metrics to maximise. Default: its main one.
        shots: Solved examples in front of every prompt, as many of them as fit, drawn from the training examples, which
            they no longer belong to.
        calibration: What dev and test options are compared by. ``none``: length-normalised log-likelihood. ``sfc``: how
            much likelier the prompt makes them than one without the record's context (arXiv 2104.08315).
        max_length: The most tokens of a prompt with its longest option. Longer prompts lose their left end.
        data_seed: Of the choice of examples for each split.

    Raises:
        ConfigurationError: If an argument is out of range.
    """

    source: ClassVar[Source | None] = None
    default_objective: Objective = "classification"
    objectives: ClassVar[tuple[Objective, ...]] = get_args(Objective)
    calibrations: ClassVar[tuple[Calibration, ...]] = get_args(Calibration)
    labelled: ClassVar[bool] = True
    default_sizes: ClassVar[SplitSizes] = SplitSizes(1000, 500, 1000)

    def __init__(
        self,
        *,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_train: int | None = None,
        num_dev: int | None = None,
        num_test: int | None = None,
        k_shot: int | None = None,
        data_dir: str | None = None,
        prompt: PromptStyle = "aligned",
        options: list[str] | None = None,
        objective: Objective | None = None,
        metric: str | None = None,
        shots: int = 0,
        calibration: Calibration = "none",
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
        if k_shot is not None and not self.labelled:
            raise ConfigurationError(f"k_shot counts examples of each label, and {type(self).__name__} has no labels")
        if k_shot is not None and (num_train is not None or num_dev is not None):
            raise ConfigurationError(
                f"k_shot={k_shot} stands instead of num_train={num_train} and num_dev={num_dev}: set these to null"
            )
        self.plan = SplitPlan(self.default_sizes.but(num_train, num_dev, num_test), k_shot, data_seed)
        self.data_dir = None if data_dir is None else Path(data_dir).expanduser()
        check_choice("prompt", prompt, get_args(PromptStyle))
        self.prompt_style = prompt
        self.objective: Objective = self.default_objective if objective is None else objective
        check_choice("objective", self.objective, self.objectives)
        if shots < 0:
            raise ConfigurationError(f"shots must be at least 0, got {shots}")
        check_choice("calibration", calibration, self.calibrations)
        self.shots = shots
        self.metric = metric
        self.calibration: Calibration = calibration
        self.max_length = max_length
        if options is not None:
            if len(options) != len(self.options):
                raise ConfigurationError(
                    f"{type(self).__name__} has {len(self.options)} options {list(self.options)}, got {options}"
                )
            self.options = self.cloze_options = tuple(options)
        self._metric = metric_to_maximise(self.objective, self.metrics(), self.main_metric, metric)
        self._splits: Splits | None = None
        self._prepared: PreparedSplits | None = None
        self._sharing: PromptSharing | None = None
        self.order_seed = 0

    def read(self) -> Splits:
        """Read and split the records."""
        if self.source is None:
            raise ConfigurationError(f"{type(self).__name__} must state its source, or override read()")
        train, validation = self.source.read_hub() if self.data_dir is None else self.source.read_folder(self.data_dir)
        validation = self.checked(validation)
        if train is None:
            rank_zero_info(
                f"{self.data_dir}: there is no {self.source.train_file}; train, dev and test examples are all taken "
                f"from {' or '.join(self.source.validation_files)}"
            )
        return self.plan.split(None if train is None else self.checked(train), validation, self.family, self.answer)

    def place(self) -> str:
        """Where the records are read from."""
        if self.data_dir is not None:
            return str(self.data_dir)
        return "no source" if self.source is None else self.source.hub

    def settings(self) -> dict[str, object]:
        """What the task was set to, by name: what makes its examples, its loss and its scores what they are."""
        return {
            "batch_size": self.batch_size,
            "objective": self.objective,
            "options": self.options,
            "data_seed": self.plan.seed,
            "k_shot": self.plan.k_shot,
            "prompt": self.prompt_style,
            "shots": self.shots,
            "metric": self.metric,
            "calibration": self.calibration,
            "max_length": self.max_length,
            "place": self.place(),
        } | vars(self.plan.sizes)

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

    def connect(
        self, tokenizer: PreTrainedTokenizerBase, max_positions: int | None, *, seed: int, cloze: bool = False
    ) -> None:
        """Tokenise all splits, the first time with this tokenizer and these lengths.

        Args:
            tokenizer: The model's.
            max_positions: The most tokens that the model can read, None if it has no limit.
            seed: Of the order of training batches.
            cloze: Whether the model is a masked one, which fills blanks.

        Raises:
            ConfigurationError: If a record cannot be tokenised as prompt and options.
        """
        self.setup()
        self.order_seed = seed
        limit = self.max_length if max_positions is None else min(self.max_length, max_positions)
        questions = self._questions(cloze)
        if self.shots:
            shown, questions["train"] = draw(questions["train"], self.shots, self.plan.seed)
            numbers = {name: how_many_fit(asked, shown, tokenizer, limit) for name, asked in questions.items()}
            announce(numbers["test"], self.shots)
            # What a null prompt lacks is the record's context alone.
            numbers |= {name: numbers[name.removeprefix(_NULL)] for name in numbers}
            questions = {name: with_demonstrations(asked, shown, numbers[name]) for name, asked in questions.items()}
        self._prepared = prepare_splits(questions, tokenizer, limit, known=self._prepared, cloze=cloze)

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

    def _questions(self, cloze: bool) -> dict[str, list[Question]]:
        splits: dict[str, list[Record]] = vars(self.splits)
        questions = {name: [self.question(record, cloze) for record in rows] for name, rows in splits.items()}
        if self.calibration == "sfc":
            for name in ("dev", "test"):
                questions[_NULL + name] = [self.null_question(record, cloze) for record in splits[name]]
        return questions

    def _train_examples(self) -> Sequence[Example]:
        examples = self.prepared.examples["train"]
        if not examples:
            raise ConfigurationError(
                f"shots={self.shots:,} leave no example to train on: raise num_train, or set fewer"
            )
        return [example.right for example in examples] if self.objective == "lm" else examples

    def _evaluation_loader(self, split: str, longest_first: bool) -> EvaluationLoader:
        examples = self.prepared.examples[split]
        if self.calibration == "sfc":
            nulls = self.prepared.examples[_NULL + split]
            examples = [replace(example, null=null) for example, null in zip(examples, nulls, strict=True)]
        return EvaluationLoader(examples, self.eval_batch_size, longest_first, self._row_limit(examples))

    def _row_limit(self, examples: Sequence[Example]) -> int:
        return 0 if self._sharing is None else self._sharing.row_limit(examples)
