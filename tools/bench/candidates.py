"""Scoring one candidate at a time, as everyone does: the yardstick of evaluations.

As in the released code of Malladi et al., arXiv 2305.17333: a forward at batch size 1 for each option of each example,
the whole logits, the log-softmax of all of them. What that code does beyond it and would only slow it further is left
out: tokenising in the loop, a key/value cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

if TYPE_CHECKING:
    from zolightning.tasks import Task


class Candidates:
    """A task's test examples with a sequence for each option.

    Args:
        task: Connected to the model's tokenizer.
        device: The model's.

    Attributes:
        sequences: Of each example, for each option its token numbers [1, length] and how many of them it scores.
        answers: The right option of each example.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        examples = task.prepared.examples["test"]
        self.sequences = [
            [
                (torch.tensor([example.prompt + continuation], device=device), len(continuation) - start)
                for continuation, start in zip(example.continuations, example.starts, strict=True)
            ]
            for example in examples
        ]
        self.answers = [example.answer for example in examples]

    @property
    def forwards(self) -> int:
        """How many forwards an evaluation takes."""
        return sum(map(len, self.sequences))

    @property
    def tokens(self) -> int:
        """How many tokens it computes."""
        return sum(ids.numel() for options in self.sequences for ids, _ in options)

    def accuracy(self, model: nn.Module) -> float:
        """Return the share of examples whose right option scores highest."""
        found = [int(scores_of(model, options).argmax()) for options in self.sequences]
        return sum(map(int.__eq__, found, self.answers)) / len(found)


@torch.inference_mode()
def scores_of(model: nn.Module, options: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Return the mean log-likelihood of each option of an example [options], from a forward for each."""
    return torch.stack([_score(model, ids, scored) for ids, scored in options])


def _score(model: nn.Module, ids: Tensor, scored: int) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    likelihoods = log_softmax(logits, dim=-1).gather(-1, ids[0, 1:, None])
    return likelihoods[-scored:].mean()
