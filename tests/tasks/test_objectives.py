"""Losses: what they are, and that micro-batches average to the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from transformers import GPT2Config, GPT2LMHeadModel

from zolightning.errors import ConfigurationError
from zolightning.models.batch import collate
from zolightning.models.question import Example
from zolightning.models.scoring import option_scores, token_log_likelihoods
from zolightning.tasks import SampleReviews
from zolightning.tasks.objectives import Objective, metric_loss, objective_loss, objective_weight

EXAMPLES = [
    Example([1, 5, 6], [[8], [8, 9, 10], [20, 21]], [0, 0, 0], 2),
    Example([1, 5, 6, 7, 33], [[40, 8], [41, 42, 3]], [1, 1], 1),
    Example([1, 4], [[8], [9]], [0, 0], 0),
    Example([1, 4, 4, 4, 2], [[8, 7, 7, 7], [9]], [0, 0], 0),
    Example([3], [[8], [9], [4]], [0, 0, 0], 1),
]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    # GPT-2, whose norms compute in the weights' precision.
    config = GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=4, n_positions=64)
    model: nn.Module = GPT2LMHeadModel(config)
    return model.double().eval()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(("objective", "only_answer"), [("classification", False), ("lm", False), ("lm", True)])
def test_micro_batches_average_to_the_batch(
    model: nn.Module, objective: Objective, only_answer: bool, size: int
) -> None:
    batch = collate([example.right for example in EXAMPLES] if only_answer else EXAMPLES)
    pieces = batch.split(size)
    with torch.no_grad():
        whole = objective_loss(objective, token_log_likelihoods(model, batch), batch)
        losses = [objective_loss(objective, token_log_likelihoods(model, piece), piece) for piece in pieces]
    weights = [objective_weight(objective, piece) for piece in pieces]
    assert sum(weights) == objective_weight(objective, batch)
    mean = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
    torch.testing.assert_close(mean, whole, rtol=0, atol=1e-12)


def test_classification_is_the_cross_entropy_over_options(model: nn.Module) -> None:
    batch = collate(EXAMPLES)
    with torch.no_grad():
        scores = option_scores(model, batch)
        loss = objective_loss("classification", token_log_likelihoods(model, batch), batch)
    expected = -torch.stack([row.log_softmax(-1)[e.answer] for row, e in zip(scores, EXAMPLES, strict=True)]).mean()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


def test_lm_is_the_mean_over_gold_tokens_whatever_else_is_in_the_batch(model: nn.Module) -> None:
    alone, among = collate([example.right for example in EXAMPLES]), collate(EXAMPLES)
    with torch.no_grad():
        losses = [objective_loss("lm", token_log_likelihoods(model, batch), batch) for batch in (alone, among)]
        scores = option_scores(model, among)
    tokens = torch.tensor([len(e.continuations[e.answer]) - e.starts[e.answer] for e in EXAMPLES])
    gold = scores[range(5), [e.answer for e in EXAMPLES]]
    torch.testing.assert_close(losses[0], -(gold * tokens).sum() / tokens.sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-12)
    assert objective_weight("lm", among) == objective_weight("lm", alone) == int(tokens.sum()) == 10


@pytest.mark.parametrize("objective", ["classification", "lm"])
def test_gradients_are_finite_where_options_are_absent(model: nn.Module, objective: Objective) -> None:
    batch = collate(EXAMPLES)
    loss = objective_loss(objective, token_log_likelihoods(model, batch), batch)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_a_metric_is_maximised(model: nn.Module) -> None:
    batch = collate(EXAMPLES)
    with torch.no_grad():
        scores = option_scores(model, batch)
    right = (scores.argmax(-1) == batch.answers).double().mean()
    metric = MetricCollection({"accuracy": MulticlassAccuracy(3, average="micro")})
    outcome = {"preds": scores.argmax(-1), "target": batch.answers, "unheeded": None}
    for _ in range(2):
        loss = metric_loss(metric, outcome, torch.device("cpu"))
        torch.testing.assert_close(loss.double(), -right, rtol=0, atol=1e-6)
    assert objective_weight("metric", batch) == 5


def test_which_metric_is_the_task_s() -> None:
    assert SampleReviews(objective="metric", metric="accuracy").objective == "metric"
    with pytest.raises(ConfigurationError, match="metric must be one of accuracy, got 'f1'"):
        SampleReviews(objective="metric", metric="f1")
    with pytest.raises(ConfigurationError, match="objective is classification"):
        SampleReviews(metric="accuracy")
