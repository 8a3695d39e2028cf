"""Examples with options, and their scores by a naive reference: one option at a time, batch size 1, all logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.helpers.transformers_alone import mean_log_likelihood
from zolightning.models.question import Example

SINGLE = [
    Example([1, 5, 6, 7], [[8], [9]], [0, 0], 1),
    Example([1, 5, 6, 7, 9, 11, 12], [[8], [9]], [0, 0], 0),
    Example([1, 3], [[8], [9]], [0, 0], 0),
]
MULTI = [
    Example([1, 5, 6], [[8, 10, 3], [9, 4, 4]], [0, 0], 1),
    Example([1, 5, 6, 7, 3, 3], [[8, 10, 3], [9, 4, 4]], [0, 0], 0),
]
RAGGED = [
    Example([1, 5, 6], [[8], [8, 9, 10], [20, 21]], [0, 0, 0], 2),
    Example([1, 5, 6, 7, 33], [[40, 8], [41, 42, 3]], [1, 1], 0),
    Example([], [[1, 8], [2, 9, 10, 11]], [1, 1], 1),
    Example([1, 4], [[8], [9], [10], [11, 12]], [0, 0, 0, 0], 3),
]


def reference(model: nn.Module, examples: list[Example]) -> Tensor:
    """Return the scores [examples, options] of a model called with `input_ids`, from the logits of every token."""
    scores = torch.full(
        (len(examples), max(len(e.continuations) for e in examples)), float("-inf"), dtype=torch.float64
    )
    for row, example in enumerate(examples):
        for column, (continuation, start) in enumerate(zip(example.continuations, example.starts, strict=True)):
            ids, first = example.prompt + continuation, len(example.prompt) + start
            scores[row, column] = mean_log_likelihood(model, ids, first)
    return scores
