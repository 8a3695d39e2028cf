"""Sharded weights: every process holds some rows of each, and they are gathered block by block for each forward."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.runs import OLD
from zolightning.shapes import check_same_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lightning.pytorch import Trainer
    from torch import nn

    from zolightning.models.loading import Attention, Dtype
    from zolightning.models.schemes import Scheme


# What Lightning writes beside the weights in the folder of a sharded checkpoint.
_HEADER = "meta.pt"


class ShardedStrategy(ModelParallelStrategy):
    """Data-parallel training of a model that no device holds whole, by FSDP2; `zo_fsdp` by name.

    Each process keeps its rows of every weight; a transformer block's weights are gathered for the length of its
    forward. A zeroth-order step perturbs them there and moves the rows where they lie, with the bits that one process
    would give them. Checkpoints are folders, into which each process writes what it holds.

    Args:
        process_group_backend: of torch.distributed; null for NCCL on GPUs and gloo on processors.
        timeout_minutes: after which a process that waits for another gives up.

    Raises:
        ConfigurationError: if timeout_minutes is not positive.
    """

    def __init__(self, process_group_backend: str | None = None, timeout_minutes: float = 30.0) -> None:
        if not timeout_minutes > 0:
            raise ConfigurationError(f"timeout_minutes must be positive, got {timeout_minutes}")
        super().__init__(
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )

    @override
    def setup_environment(self) -> None:
        """Let all processes share the weights."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    @override
    def setup(self, trainer: Trainer) -> None:
        """Evaluate without gradients, but not in inference mode: what a forward gathers there no step could use."""
        loops = (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop)
        for loop in loops:
            loop.inference_mode = False
        super().setup(trainer)

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint beside the one that is to be replaced, which is there until the new one is complete."""
        path = Path(self.broadcast(filepath))
        new, old = (path.with_name(path.name + suffix) for suffix in (".new", OLD))
        self._alone(lambda: _remove(new))
        super().save_checkpoint(checkpoint, new, storage_options)
        self._alone(lambda: _replace(path, new, old))

    def _alone(self, action: Callable[[], None]) -> None:
        """Let the first process do something that the others wait for."""
        self.barrier()
        if self.is_global_zero:
            action()
        self.barrier()

    def load(self, backbone: str, dtype: Dtype, attention: Attention, scheme: Scheme) -> nn.Module:
        """Load a backbone sharded; arguments as `load_model` has them.

        Raises:
            ConfigurationError: if not all of the model is to train.
        """
        from zolightning.models.sharding import load_sharded

        if not scheme.whole:
            raise ConfigurationError(
                f"trainer.strategy: zo_fsdp trains all of a model, got model.scheme={scheme}: set it to full, or "
                "trainer.strategy to zo_ddp"
            )
        return load_sharded(backbone, dtype, attention, self.device_mesh["data_parallel"], self.root_device)

    @override
    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint, sharded or not, in place; before, see that it is of the same model.

        Raises:
            ConfigurationError: if it is not, or is torn.
        """
        assert self.model is not None
        own = {name: weight.shape for name, weight in self.model.state_dict().items()}
        check_same_model(own, _shapes_in(Path(checkpoint_path)), own.keys())
        return super().load_checkpoint(checkpoint_path, weights_only)

    def header(self, checkpoint: Path) -> Mapping[str, Any]:
        """Return what is in a checkpoint, sharded or not, beside its weights, or with weights that are read when used.

        Raises:
            ConfigurationError: if it is torn.
        """
        with _torn(checkpoint):
            return _mapped(checkpoint if checkpoint.is_file() else checkpoint / _HEADER)

    def load_weights(self, checkpoint: Path) -> None:
        """Load the weights of a checkpoint, sharded or not, which all processes call."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_model_state_dict,
            set_model_state_dict,
        )
        from torch.distributed.checkpoint.state_dict_loader import load

        assert self.model is not None
        if checkpoint.is_file():
            whole = _mapped(checkpoint)["state_dict"]
            set_model_state_dict(self.model, whole, options=StateDictOptions(full_state_dict=True))
            return
        state = get_model_state_dict(self.model)
        load({"state_dict": state}, checkpoint_id=checkpoint)
        self.model.load_state_dict(state)


def _mapped(path: Path) -> dict[str, Any]:
    """Return what is in a checkpoint file, whose weights are read as they are needed."""
    loaded: dict[str, Any] = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
    return loaded


def _shapes_in(path: Path) -> dict[str, Sequence[int]]:
    """Return the shape of each weight in a checkpoint.

    Raises:
        ConfigurationError: if what says so is torn.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    prefix = "state_dict."
    with _torn(path):
        if path.is_file():
            return {name: weight.shape for name, weight in _mapped(path)["state_dict"].items()}
        kept = FileSystemReader(path).read_metadata().state_dict_metadata
    return {
        name.removeprefix(prefix): entry.size
        for name, entry in kept.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }


@contextmanager
def _torn(path: Path) -> Iterator[None]:
    """Say of a checkpoint that cannot be read within that it is torn."""
    try:
        yield
    except OSError:
        raise
    # Of spoiled bytes what reads them makes whatever it makes.
    except Exception as error:
        raise ConfigurationError(f"ckpt_path: {path} is torn, or no checkpoint: give another") from error


def _remove(path: Path) -> None:
    """Remove a checkpoint, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(path: Path, new: Path, old: Path) -> None:
    """Put a new checkpoint in the place of another."""
    # Where it is missing, the old one is what there is.
    if path.exists():
        _remove(old)
        path.rename(old)
    new.rename(path)
    _remove(old)
