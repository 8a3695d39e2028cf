"""What a Trainer has and does that its type, or its interface, does not tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from zolightning.errors import ConfigurationError
from zolightning.tasks import Task

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

    Kind = TypeVar("Kind", bound=Callback)


def task_of(trainer: Trainer) -> Task:
    """Return the task that a Trainer was given as its datamodule.

    Raises:
        ConfigurationError: if it has none.
    """
    task = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(task, Task):
        raise ConfigurationError(f"FineTuner needs a Task as datamodule, got {type(task).__name__}")
    return task


def is_rehearsal(trainer: Trainer) -> bool:
    """Return whether a run is Lightning's `fast_dev_run`, a few batches that leave nothing behind."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def logs_now(trainer: Trainer) -> bool:
    """Return whether this step is one of those that `trainer.log_every_n_steps` picks; 0 picks none."""
    every = int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
    return every > 0 and trainer.global_step % every == 0


def validate(trainer: Trainer) -> None:
    """Validate once within a `fit`, out of turn."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def callbacks_of(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """Return a Trainer's callbacks of a kind, in order."""
    return [found for found in trainer.callbacks if isinstance(found, kind)]  # type: ignore[attr-defined]
