"""On resume, the recipe's hyperparameters win over the checkpoint's; the counters are the checkpoint's."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_PROGRESS = frozenset({"params", "param_names", "step", "seed", "layout", "lr", "initial_lr"})


class Recipe:
    """Remembers the hyperparameters that an optimizer was made with.

    A resumed optimizer takes its parameter groups from the checkpoint, and with them the old learning rate: a new one
    in the recipe or on the command line would be lost without a word.

    Args:
        optimizer: as it was made.
        scheduler: its learning rate scheduler, if it has one.
    """

    def __init__(self, optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._groups = [dict(group) for group in optimizer.param_groups]

    def reassert(self) -> None:
        """Set every hyperparameter to the recipe's; a schedule goes on from where it was, at the recipe's rate."""
        for made, group in zip(self._groups, self._optimizer.param_groups, strict=True):
            group.update({key: value for key, value in made.items() if key not in _PROGRESS})
            if self._scheduler is None:
                group["lr"] = made["lr"]
            elif group["initial_lr"] != made["initial_lr"]:
                group["lr"] *= made["initial_lr"] / group["initial_lr"] if group["initial_lr"] else 1.0
                group["initial_lr"] = made["initial_lr"]
        if self._scheduler is not None:
            self._scheduler.base_lrs = [group["initial_lr"] for group in self._optimizer.param_groups]
