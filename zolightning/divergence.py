"""Stopping a run whose losses are no longer finite, with its last good state kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from zolightning.errors import DivergenceError
from zolightning.runs import run_folder

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

PATIENCE = 10


def stop_if_diverged(trainer: Trainer, skipped: Tensor | None) -> None:
    """Stop once too many steps in a row have been skipped.

    Skipped steps leave the weights alone, so what is saved is the state before the losses went bad.

    Args:
        trainer: saves the checkpoint.
        skipped: skipped steps, int64 [3]: in all, in a row, and the longest row. Reading it waits for the device, so
            call this where a log does so anyway.

    Raises:
        DivergenceError: after `PATIENCE` skipped steps in a row.
    """
    if skipped is None or int(skipped[2]) < PATIENCE:
        return
    path = run_folder(trainer) / "checkpoints" / "diverged.ckpt"
    trainer.save_checkpoint(path)
    raise DivergenceError(
        f"{int(skipped[2])} steps in a row had a loss that was not finite and were skipped; stopped at step "
        f"{trainer.global_step}. The weights before that are in {path}. A smaller lr usually helps, or model.dtype: "
        "bfloat16 in place of float16"
    )
