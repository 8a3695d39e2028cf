"""On resume, what the recipe has changed wins over the checkpoint; all else goes on from where it was."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# Progress and identity of a run, which a recipe does not set.
_PROGRESS = frozenset({"params", "param_names", "step", "seed", "layout", "sparsity", "picked", "skipped"})


class Recipe:
    """Remembers the hyperparameters that an optimizer and its scheduler were made with.

    A resumed optimizer takes its parameter groups from the checkpoint, and with them the old learning rate: a new one
    in the recipe or on the command line would be lost without a word. What a strategy itself changed in the meantime
    is kept.

    Args:
        optimizer: as it was made.
        scheduler: its learning rate scheduler, if it has one.
    """

    def __init__(self, optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._groups = [
            {key: value for key, value in group.items() if key not in _PROGRESS} for group in optimizer.param_groups
        ]
        self._schedule = None if scheduler is None else copy.deepcopy(scheduler.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the hyperparameters as they were made, for the checkpoint."""
        return {"groups": copy.deepcopy(self._groups), "schedule": copy.deepcopy(self._schedule)}

    def reassert(self, saved: dict[str, Any], steps: int) -> None:
        """Set what differs between this recipe and the checkpoint's.

        Args:
            saved: the `state_dict` of the recipe that the checkpoint was made with.
            steps: the steps taken so far; a schedule that differs is run through from its beginning.
        """
        restart = self._schedule is not None and (self._schedule, self._rates(self._groups)) != (
            saved["schedule"],
            self._rates(saved["groups"]),
        )
        for made, before, group in zip(self._groups, saved["groups"], self._optimizer.param_groups, strict=True):
            for key, value in made.items():
                rewound = restart and key in ("lr", "initial_lr")
                if rewound or before.get(key) != value:
                    group[key] = value
        if restart and self._scheduler is not None:
            assert self._schedule is not None
            self._scheduler.load_state_dict(copy.deepcopy(self._schedule))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                for _ in range(steps):
                    self._scheduler.step()

    @staticmethod
    def _rates(groups: list[dict[str, Any]]) -> list[object]:
        return [group["initial_lr"] for group in groups]
