"""From a run's journal to the files of its models."""

from __future__ import annotations

from pathlib import Path

import pytest

import replay
from tests.helpers.runs import fit, recipe


def test_the_files_are_the_run_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(recipe(tmp_path))
    journal = ["--journal", str(run / "journal.zoj"), "--device", "cpu"]
    replay.main([*journal, "--step", "best", "--out", str(tmp_path / "best")])
    assert (tmp_path / "best/model.safetensors").read_bytes() == (run / "best/model.safetensors").read_bytes()
    replay.main([*journal, "--step", "3", "--base", "sample", "--out", str(tmp_path / "third")])
    assert (tmp_path / "third/model.safetensors").read_bytes() != (run / "best/model.safetensors").read_bytes()
    capsys.readouterr()
    replay.main([*journal, "--show"])
    said = capsys.readouterr().out
    for word in ("sample, float32", "ZOSGD", "full", "183,872", "val/accuracy"):
        assert word in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--step", "first", "--out", "new"], "--step must be a number, best or last, got first"),
        ([], "--out says where"),
        (["--out", "."], "is there already"),
        (["--out", "new"], "there is no journal none.zoj"),
    ],
)
def test_what_is_wrong_is_said(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        replay.main(["--journal", "none.zoj", *flags])
    assert message in capsys.readouterr().err + str(caught.value)
