"""What tasks share whose answers are generated, not chosen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torchmetrics import MetricCollection
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.models.batch import OptionBatch
from zolightning.models.generation import generate
from zolightning.models.question import Question
from zolightning.tasks.answers import exact_match, token_f1
from zolightning.tasks.base import Calibration, Task
from zolightning.tasks.metrics import Likeness, TextScore
from zolightning.tasks.objectives import Objective, Outcome, metric_loss
from zolightning.tasks.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class GenerationTask(Task):
    """A data set of prompts with texts that are right answers. A new task states the fields, ``prompt`` and ``golds``.

    Training minimises the loss of the first right answer's tokens and of the stop string that follows it; evaluation
    lets the model write, greedily, and compares.
    """

    main_metric = "f1"
    options = ()
    labelled: ClassVar[bool] = False
    default_objective: Objective = "lm"
    objectives: ClassVar[tuple[Objective, ...]] = ("lm", "metric")
    calibrations: ClassVar[tuple[Calibration, ...]] = ("none",)
    stop: str = "\n"
    max_new_tokens: int = 50
    likenesses: ClassVar[Mapping[str, Likeness]] = {"f1": token_f1, "exact_match": exact_match}

    @abstractmethod
    def golds(self, fields: Mapping[str, object]) -> Sequence[str]:
        """The texts that are right answers, at least one; the first is trained on."""

    @override
    def option_texts(self, fields: Mapping[str, object]) -> Sequence[str]:
        """The text that is trained on."""
        return [f" {self.written_as(self.golds(fields)[0])}{self.stop}"]

    def written_as(self, gold: str) -> str:
        """A right answer as a model is to write it."""
        return gold

    @override
    def question(self, record: Record, cloze: bool = False) -> Question:
        return replace(super().question(record, cloze), reserved=self.max_new_tokens)

    @override
    def answer(self, record: Record) -> int:
        """The only option.

        Raises:
            ConfigurationError: If there is no right answer.
        """
        if not self.golds(record.fields):
            raise ConfigurationError(f"{record.origin}: there is no right answer")
        return 0

    @override
    def settings(self) -> dict[str, object]:
        return super().settings() | {"stop": self.stop, "max_new_tokens": self.max_new_tokens}

    @override
    def metrics(self) -> MetricCollection:
        scores = {name: TextScore(likeness) for name, likeness in self.likenesses.items()}
        # Groups would be made of scores that happen to begin alike.
        return MetricCollection(dict(scores), compute_groups=False)

    @override
    def connect(
        self, tokenizer: PreTrainedTokenizerBase, max_positions: int | None, *, seed: int, cloze: bool = False
    ) -> None:
        super().connect(tokenizer, max_positions, seed=seed, cloze=cloze)
        self._tokenizer = tokenizer

    @override
    def assess(self, model: nn.Module, batch: OptionBatch) -> tuple[Tensor, Outcome]:
        if self._metric is None:
            return super().assess(model, batch)
        # Nobody reads the right answers' likelihoods.
        outcome = self.outcome(model, batch, batch.counts)
        return metric_loss(self._metric, outcome, batch.answers.device), outcome

    @override
    def outcome(self, model: nn.Module, batch: OptionBatch, scores: Tensor) -> Outcome:
        return {"texts": self.write(model, batch), "golds": [self.golds(q.fields) for q in batch.questions]}

    def write(self, model: nn.Module, batch: OptionBatch) -> list[str]:
        """What a model answers to each prompt of a batch."""
        prompts = [example.asked for example in batch.examples]
        device = batch.input_ids.device
        return generate(model, self._tokenizer, prompts, self.stop, self.max_new_tokens, device)

    @override
    def predictions(self, model: nn.Module, batch: OptionBatch) -> list[dict[str, Any]]:
        return [
            {
                "prompt": question.prompt,
                "prediction": text,
                "answers": [self.written_as(gold) for gold in self.golds(question.fields)],
            }
            for question, text in zip(batch.questions, self.write(model, batch), strict=True)
        ]
