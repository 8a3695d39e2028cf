"""What a task's training minimises, given the log-likelihoods of option tokens."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection

from zolightning.errors import ConfigurationError, check_choice
from zolightning.models.batch import OptionBatch
from zolightning.models.scoring import mean_log_likelihoods

Objective = Literal["classification", "lm", "metric"]

# What metrics are computed from, by the names of the arguments that they take.
Outcome = dict[str, Any]


def metric_to_maximise(
    objective: Objective, metrics: MetricCollection, main: str, name: str | None
) -> MetricCollection | None:
    """Return the metric that training maximises, alone, or None if the objective is another.

    Args:
        objective: The task's.
        metrics: The task's.
        main: Of the one that is taken unless another is named.
        name: Of one of them, or None.

    Raises:
        ConfigurationError: If there is none of that name, or a name is given that the objective has no use for.
    """
    if objective != "metric":
        if name is not None:
            raise ConfigurationError(f"metric={name} is for objective: metric, but objective is {objective}")
        return None
    named = {str(known): metric for known, metric in metrics.items()}
    chosen = main if name is None else name
    check_choice("metric", chosen, tuple(named))
    return MetricCollection({chosen: named[chosen]})


def metric_loss(metric: MetricCollection, outcome: Outcome, device: torch.device) -> Tensor:
    """Minus a metric [] of a batch, which has no gradient; of this process' batch, where there are several.

    Args:
        metric: one alone; what it has seen before is forgotten.
        outcome: of the batch, see :meth:`~zolightning.tasks.Task.outcome`.
        device: of the loss.
    """
    metric.to(device).reset()
    # What is called computes of the batch alone; compute() would ask all processes.
    (value,) = metric(**outcome).values()
    loss: Tensor = -value
    return loss


def objective_loss(objective: Objective, likelihoods: Tensor, batch: OptionBatch) -> Tensor:
    """Mean loss [] from token log-likelihoods [batch, options, tokens]: over examples, or for ``lm`` gold tokens.

    Not for ``metric``, which has a loss of its own.
    """
    if objective == "classification":
        return cross_entropy(mean_log_likelihoods(likelihoods, batch), batch.answers)
    examples = torch.arange(batch.num_examples, device=batch.answers.device)
    return -likelihoods[examples, batch.answers].sum() / batch.num_gold_tokens


def objective_weight(objective: Objective, batch: OptionBatch) -> int:
    """How many terms the mean of ``objective_loss`` has."""
    return batch.num_gold_tokens if objective == "lm" else batch.num_examples
