"""How checkpoints come to the disk, and back."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from typing_extensions import override

from zolightning.durable import replacing
from zolightning.errors import ConfigurationError


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces, tensor by tensor, and reads no code.

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

    @override
    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint; code that it may hold is run only if a Trainer is told so.

        Raises:
            ConfigurationError: if it is torn, sharded, no checkpoint of a Trainer, or holds code.
            OSError: if it cannot be read.
        """
        if Path(path).is_dir():
            raise ConfigurationError(
                f"ckpt_path: {path} is of a run with sharded weights: set trainer.strategy to zo_fsdp"
            )
        try:
            found = super().load_checkpoint(path, map_location, weights_only is None or weights_only)
        except (torch.OutOfMemoryError, MemoryError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:
            if "://" not in str(path) and not _is_whole(Path(path)):
                raise ConfigurationError(
                    f"ckpt_path: {path} is torn, or no checkpoint: give another, or the journal of a run that has one"
                ) from error
            if isinstance(error, UnpicklingError):
                raise ConfigurationError(
                    f"ckpt_path: {path} holds more than tensors and plain values, which could run code of its own: "
                    "give another, or, if you trust it, call Trainer.fit with weights_only=False"
                ) from error
            raise
        if not isinstance(found, dict) or "pytorch-lightning_version" not in found:
            raise ConfigurationError(
                f"ckpt_path: {path} is no checkpoint of a Trainer: give one of a run's checkpoints/"
            )
        return found


def _is_whole(path: Path) -> bool:
    """Return whether a file is an archive, as torch writes them, whose parts have the sums that it notes."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (BadZipFile, EOFError, ValueError, NotImplementedError):
        return False


def write_whole(trainer: Trainer) -> None:
    """Let a Trainer that was not told how to write checkpoints write them whole."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
