"""What a task computes of a batch: the loss that training minimises, and what its metrics see."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from zolightning.models.batch import OptionBatch
from zolightning.models.question import Question
from zolightning.models.scoring import calibrated, mean_log_likelihoods, token_log_likelihoods, token_logits
from zolightning.tasks.objectives import Objective, Outcome, metric_loss, objective_loss, objective_weight
from zolightning.tasks.wording import Wording


class Scored(Wording):
    """A task whose answers are options that a language model gives scores to.

    Attributes:
        main_metric: Of the task's metrics the one that a run is judged by, unless it says otherwise.
        objective: What training minimises.
    """

    main_metric: str = "accuracy"
    objective: Objective
    _metric: MetricCollection | None

    def metrics(self) -> MetricCollection:
        """Fresh metrics, each of which takes what it needs of ``outcome``."""
        classes = max(2, len(self.options))
        return MetricCollection({"accuracy": MulticlassAccuracy(classes, average="micro", validate_args=False)})

    def loss(self, model: nn.Module, batch: OptionBatch) -> Tensor:
        """Mean loss [] of a batch under the task's objective, at least fp32."""
        if self._metric is not None:
            return self.assess(model, batch)[0]
        return objective_loss(self.objective, self._likelihoods(model, batch), batch)

    def scores(self, model: nn.Module, batch: OptionBatch) -> Tensor:
        """What options are compared by [batch, options], see ``calibration``; -inf where there is none."""
        return self._scores(model, batch, token_log_likelihoods(model, batch))

    def assess(self, model: nn.Module, batch: OptionBatch) -> tuple[Tensor, Outcome]:
        """``loss`` and what metrics are computed from, with one forward for both where options are scored."""
        likelihoods = self._likelihoods(model, batch)
        outcome = self.outcome(model, batch, self._scores(model, batch, likelihoods))
        if self._metric is not None:
            return metric_loss(self._metric, outcome, batch.answers.device), outcome
        return objective_loss(self.objective, likelihoods, batch), outcome

    def outcome(self, model: nn.Module, batch: OptionBatch, scores: Tensor) -> Outcome:
        """What metrics are computed from, by the names of the arguments that they take.

        Args:
            model: The language model, for tasks whose answers are generated.
            batch: The batch.
            scores: Of each option [batch, options]; they may lack one number that all options of an example share.
        """
        return {"preds": scores.argmax(-1), "target": batch.answers}

    def predictions(self, model: nn.Module, batch: OptionBatch) -> list[dict[str, Any]]:
        """What there is to tell of each example, ready to be written as JSON."""
        rows = zip(batch.questions, self.scores(model, batch).tolist(), strict=True)
        return [_prediction(question, scores[: len(question.options)]) for question, scores in rows]

    def loss_weight(self, batch: OptionBatch) -> int:
        """What the mean of ``loss`` runs over: micro-batches' losses with these weights average to the batch's."""
        return objective_weight(self.objective, batch)

    def _likelihoods(self, model: nn.Module, batch: OptionBatch) -> Tensor:
        """Of each option's tokens [batch, options, tokens]; without the log-normaliser where it would cancel."""
        cancels = self.objective != "lm" and batch.one_read_each
        return token_logits(model, batch) if cancels else token_log_likelihoods(model, batch)

    def _scores(self, model: nn.Module, batch: OptionBatch, likelihoods: Tensor) -> Tensor:
        if batch.null is None:
            return mean_log_likelihoods(likelihoods, batch)
        null = token_log_likelihoods(model, batch.null)[batch.null_of]
        return calibrated(likelihoods, null).masked_fill(~batch.present, float("-inf"))


def _prediction(question: Question, scores: list[float]) -> dict[str, Any]:
    options = list(question.options)
    best = options[scores.index(max(scores))]
    return {
        "prompt": question.prompt,
        "options": options,
        "scores": scores,
        "prediction": best,
        "answer": options[question.answer],
    }
