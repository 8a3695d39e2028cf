"""What a journal costs, as the tool prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench_journal
from tests.helpers.models import tiny_llama


def test_a_row_for_each_thing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_llama().config.save_pretrained(tmp_path / "tiny")
    flags = ["--shape", str(tmp_path / "tiny"), "--batch", "2", "--length", "4", "--rounds", "2", "--device", "cpu"]
    bench_journal.main([*flags, "--every", "3", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    rows = [line.split("│")[1:4] for line in printed.splitlines() if "ms" not in line and "%" in line]
    names = ["a step", "its record, written", "the step, taken again", "the same, several in a pass"]
    assert [row[0].strip() for row in rows] == names
    assert all(float(row[1]) > 0 for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
