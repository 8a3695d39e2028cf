"""Which run `best` and `last` mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zolightning.errors import ConfigurationError
from zolightning.runs import resolve_checkpoint, version_of


def made(root: Path, version: int, name: str, age: int) -> Path:
    path = root / f"version_{version}" / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_the_newest_is_found_and_its_run_known(tmp_path: Path) -> None:
    made(tmp_path, 0, "last", age=5)
    newest = made(tmp_path, 10, "last", age=1)
    made(tmp_path, 2, "last", age=3)
    best = made(tmp_path, 2, "best", age=9)
    assert resolve_checkpoint("last", tmp_path) == newest
    assert resolve_checkpoint("best", tmp_path) == best
    assert version_of(newest, tmp_path) == 10
    assert version_of(newest, tmp_path / "elsewhere") is None
    assert resolve_checkpoint(str(best), tmp_path) == best


@pytest.mark.parametrize("name", ["last", "best", "other.ckpt"])
def test_nothing_there_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ckpt_path"):
        resolve_checkpoint(name, tmp_path)
