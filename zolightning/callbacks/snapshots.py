"""How checkpoints come to the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from typing_extensions import override

from zolightning.durable import replacing


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces, tensor by tensor.

    Lightning's own makes it in memory, twice, and in the folder for temporary files, from which a move to another file
    system is a copy that a kill can cut short.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; what is not a path of this machine is left to Lightning.

        Raises:
            OSError: if it cannot be written; the one before it is as it was.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with replacing(Path(path)) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            # What torch makes of a file that could not be written, and why it could not.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def write_whole(trainer: Trainer) -> None:
    """Let a Trainer that was not told how to write checkpoints write them whole."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
