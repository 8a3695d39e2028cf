"""Which run `best` and `last` mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from zolightning.errors import ConfigurationError
from zolightning.runs import is_last, resolve_checkpoint, version_of


def made(root: Path, version: int, name: str) -> Path:
    path = root / f"version_{version}" / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    (path.parent.parent / "config.yaml").touch()
    return path


def test_the_newest_is_found_and_its_run_known(tmp_path: Path) -> None:
    made(tmp_path, 0, "last")
    newest = made(tmp_path, 10, "last")
    made(tmp_path, 2, "last")
    best = made(tmp_path, 10, "best")
    (tmp_path / "version_11").mkdir()  # An evaluation's folder: it has no config.yaml.
    assert resolve_checkpoint("last", tmp_path) == newest
    assert resolve_checkpoint("best", tmp_path) == best
    assert version_of(newest, tmp_path) == 10
    assert version_of(newest, tmp_path / "elsewhere") is None
    assert resolve_checkpoint(str(best), tmp_path) == best
    assert resolve_checkpoint("best", tmp_path, numbered=False) == best
    (tmp_path / "checkpoints").mkdir()
    for name in ("config.yaml", "checkpoints/best.ckpt"):
        (tmp_path / name).touch()
    assert resolve_checkpoint("best", tmp_path, numbered=False) == tmp_path / "checkpoints" / "best.ckpt"
    assert resolve_checkpoint("best", tmp_path) == best


def test_a_sharded_checkpoint_whose_process_died_between_two_renames_is_found(tmp_path: Path) -> None:
    """The new one has not yet its place, the old one no longer."""
    checkpoints = tmp_path / "version_0" / "checkpoints"
    for name in ("last.ckpt.new", "last.ckpt.old"):
        (checkpoints / name).mkdir(parents=True)
    (checkpoints / "last.ckpt.old" / ".metadata").touch()
    (tmp_path / "version_0" / "config.yaml").touch()
    found = resolve_checkpoint("last", tmp_path)
    assert found == checkpoints / "last.ckpt.old"
    assert resolve_checkpoint(str(found), tmp_path) == found
    assert is_last(found)
    assert not is_last(checkpoints / "best.ckpt.old")
    assert version_of(found, tmp_path) == 0


def test_a_newest_run_without_checkpoint_is_not_passed_over(tmp_path: Path) -> None:
    made(tmp_path, 0, "last")
    (tmp_path / "version_1").mkdir()
    (tmp_path / "version_1" / "config.yaml").touch()
    with pytest.raises(ConfigurationError, match=r"version_1, has no last.*--ckpt_path .*version_0"):
        resolve_checkpoint("last", tmp_path)


@pytest.mark.parametrize("name", ["last", "best", "other.ckpt"])
def test_nothing_there_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ckpt_path"):
        resolve_checkpoint(name, tmp_path)
