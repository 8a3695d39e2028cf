"""A language model of a handful of parameters, for laws that are tried on many settings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Words(nn.Module):
    """Embedding, linear layer, norm and head over 40 words; every kind of parameter, in the way each is read.

    Args:
        dtype: of the weights.
        tied: whether the head's weight is the embedding's.
        options: the words that the head computes logits of, read by look-up; None for all of them.
    """

    def __init__(
        self, dtype: torch.dtype = torch.float64, *, tied: bool = False, options: Tensor | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.options = options
        self.table = nn.Embedding(40, 16)
        self.linear = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head = Head(16, 40, bias=False)
        if tied:
            self.head.weight = self.table.weight
        self.to(dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits [rows, options] after the mean of some words [rows, length]."""
        hidden = self.norm(functional.gelu(self.linear(self.table(ids)))).mean(1)
        out: Tensor = self.head(hidden, self.options)
        return out


class Head(nn.Linear):
    """A linear map of which some rows alone can be computed, read as `zolightning.models.head.only_rows` does."""

    def forward(self, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return logits [batch, rows]."""
        weight = self.weight if rows is None else functional.embedding(rows, self.weight)
        return functional.linear(inputs, weight)


IDS = torch.tensor([[3, 7, 7], [12, 3, 30], [8, 9, 1]])


def loss_of(model: nn.Module, ids: Tensor = IDS) -> Callable[[], Tensor]:
    """Return a closure for the cross-entropy of the first options, in float32 at least."""

    def loss() -> Tensor:
        logits: Tensor = model(ids)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(wide, torch.arange(ids.size(0)) % 2)

    return loss
