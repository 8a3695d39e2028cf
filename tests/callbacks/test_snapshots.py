"""How checkpoints come to the disk."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer

from zolightning.callbacks.snapshots import WholeCheckpointIO, write_whole
from zolightning.errors import ConfigurationError

# What Lightning tells its checkpoints by.
KEPT = {"pytorch-lightning_version": "2.6.0"}


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path, kept = tmp_path / "folder" / "a.ckpt", {**KEPT, "weight": torch.arange(5.0), "step": 3}
    WholeCheckpointIO().save_checkpoint(kept, path)
    found = WholeCheckpointIO().load_checkpoint(path, weights_only=True)
    assert torch.equal(found["weight"], torch.arange(5.0))
    assert found["step"] == 3
    assert list(path.parent.iterdir()) == [path]


def test_what_is_torn_or_holds_code_is_refused(tmp_path: Path) -> None:
    whole, other, code = (tmp_path / name for name in ("whole.ckpt", "other.ckpt", "code.ckpt"))
    WholeCheckpointIO().save_checkpoint({**KEPT, "weight": torch.ones(1000)}, whole)
    data = whole.read_bytes()
    torch.save({"weight": torch.zeros(1)}, other)
    torch.save({**KEPT, "weight": Path("a path is an object")}, code)
    spoiled = {f"{cut}.ckpt": data[:cut] for cut in range(0, len(data), 97)}
    spoiled["zeros.ckpt"] = bytes(700) + data[700:]
    for name, content in spoiled.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigurationError, match=f"ckpt_path: .*{name} is torn, or no checkpoint"):
            WholeCheckpointIO().load_checkpoint(tmp_path / name)
    for path, message in ((other, "no checkpoint of a Trainer"), (code, "could run code of its own")):
        with pytest.raises(ConfigurationError, match=message):
            WholeCheckpointIO().load_checkpoint(path)
    assert "weight" in WholeCheckpointIO().load_checkpoint(code, weights_only=False)


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
