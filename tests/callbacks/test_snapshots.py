"""How checkpoints come to the disk."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer

from zolightning.callbacks.snapshots import WholeCheckpointIO, write_whole


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path, kept = tmp_path / "folder" / "a.ckpt", {"weight": torch.arange(5.0), "step": 3}
    WholeCheckpointIO().save_checkpoint(kept, path)
    found = WholeCheckpointIO().load_checkpoint(path, weights_only=True)
    assert torch.equal(found["weight"], torch.arange(5.0))
    assert found["step"] == 3
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_told_as_one_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)
    before = path.read_bytes()

    def full(path: Path, mode: str) -> BinaryIO:
        assert mode == "wb"
        return open("/dev/full", "wb")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left"):
            WholeCheckpointIO().save_checkpoint({"weight": torch.zeros(100_000)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_user_has_chosen_is_left_alone() -> None:
    class Mine(TorchCheckpointIO):
        pass

    mine = Mine()
    trainer = Trainer(accelerator="cpu", plugins=[mine], logger=False)
    write_whole(trainer)
    assert trainer.strategy.checkpoint_io is mine
    trainer = Trainer(accelerator="cpu", logger=False)
    write_whole(trainer)
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpointIO)
