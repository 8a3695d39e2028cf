"""Counting the steps that are skipped because a loss was not finite, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer


class SkipGuard:
    """Three counters on the loss's device; the optimizer's state dict keeps the first.

    Args:
        optimizer: whose steps are counted.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._counts = torch.zeros(3, dtype=torch.int64)
        optimizer.param_groups[0]["skipped"] = 0
        optimizer.register_state_dict_pre_hook(self._save)
        optimizer.register_load_state_dict_post_hook(self._load)

    def _save(self, optimizer: Optimizer) -> None:
        optimizer.param_groups[0]["skipped"] = int(self._counts[0])

    def _load(self, optimizer: Optimizer) -> None:
        # The row begins anew: a run that was stopped for its row is resumed with another learning rate.
        self._counts = torch.tensor([optimizer.param_groups[0]["skipped"], 0, 0])

    @property
    def counts(self) -> Tensor:
        """Skipped steps, int64 [3]: in all, in a row up to now, and the longest row so far."""
        return self._counts

    def recall(self, finite: Tensor) -> None:
        """Note whether the losses of a step that is taken again were finite [], bool: it is in no row."""
        counts = self._counts.to(finite.device, non_blocking=True)
        none = torch.zeros_like(counts[0])
        self._counts = torch.stack([counts[0] + (~finite).to(torch.int64), none, none])

    def watch(self, finite: Tensor) -> None:
        """Note whether a step's losses were finite [], bool."""
        counts = self._counts.to(finite.device, non_blocking=True)
        bad = (~finite).to(torch.int64)
        in_a_row = (counts[1] + bad) * bad
        self._counts = torch.stack([counts[0] + bad, in_a_row, torch.maximum(counts[2], in_a_row)])
