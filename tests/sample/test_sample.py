"""The embedded sample: made by its tool, within its limits, and not solved by keywords."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file

from sample_grammar import keyword_accuracy, make_task, write_task
from zolightning.sample import MODEL, TASK


def rows(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (TASK / f"{split}.jsonl").read_text().splitlines()]


def test_the_task_is_what_the_tool_makes(tmp_path: Path) -> None:
    task = make_task()
    assert {split: rows(split) for split in ("train", "dev", "test")} == task
    write_task(task, tmp_path)
    for split in ("train", "dev", "test"):
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (TASK / f"{split}.jsonl").read_bytes()


def test_sizes_balance_and_disjoint_splits() -> None:
    reviews: set[str] = set()
    for split, least in (("train", 2000), ("dev", 500), ("test", 500)):
        found = rows(split)
        assert len(found) >= least
        assert sum(row["sentiment"] == "positive" for row in found) * 2 == len(found)
        texts = {row["review"] for row in found}
        assert not texts & reviews
        reviews |= texts


def test_a_keyword_rule_stays_under_80_percent() -> None:
    for split in ("train", "dev", "test"):
        assert keyword_accuracy(rows(split)) < 0.8


def test_the_model_is_small() -> None:
    file = MODEL / "model.safetensors"
    assert file.stat().st_size <= 4 << 20
    assert sum(tensor.numel() for tensor in load_file(file).values()) <= 2_000_000
