"""Metrics that torchmetrics lacks, as its metrics are: running sums on the model's device, reduced over processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

Likeness = Callable[[str, str], float]


class TextScore(Metric):
    """The mean likeness [] of texts to the nearest of those that count as right.

    Args:
        likeness: of a text to one that counts as right, such as :func:`~zolightning.tasks.answers.token_f1`.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    number: Tensor

    def __init__(self, likeness: Likeness) -> None:
        super().__init__()
        self.likeness = likeness
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("number", torch.zeros(()), dist_reduce_fx="sum")

    @override
    def update(self, texts: Sequence[str], golds: Sequence[Sequence[str]]) -> None:
        """Add texts [batch], each with its right texts [batch, any number]."""
        pairs = zip(texts, golds, strict=True)
        # Added up on the host: each number of its own would be copied to the device.
        self.total += sum(max(self.likeness(text, gold) for gold in right) for text, right in pairs)
        self.number += len(texts)

    @override
    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.number


class GroupedExactMatch(Metric):
    """The share [] of groups of which every prediction is right, as MultiRC judges questions (Khashabi et al. 2018)."""

    full_state_update = False
    higher_is_better = True
    groups: list[Tensor]
    right: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("groups", [], dist_reduce_fx="cat")
        self.add_state("right", [], dist_reduce_fx="cat")
        self.reset()

    @override
    def reset(self) -> None:
        """Forget what has been seen."""
        super().reset()
        # A process that sees nothing still has to send what those of others can be joined with.
        self.groups.append(torch.empty(0, dtype=torch.int64, device=self.device))
        self.right.append(torch.empty(0, dtype=torch.bool, device=self.device))

    @override
    def update(self, preds: Tensor, target: Tensor, groups: Tensor) -> None:
        """Add predictions [batch], what is right [batch], and the number of the group of each [batch]."""
        self.groups.append(groups)
        self.right.append(preds == target)

    @override
    def compute(self) -> Tensor:
        """Return the share of groups."""
        _, members = torch.unique(dim_zero_cat(self.groups), return_inverse=True)
        wrong = torch.zeros(int(members.max()) + 1, device=members.device)
        wrong.index_add_(0, members, (~dim_zero_cat(self.right)).float())
        return (wrong == 0).float().mean()
