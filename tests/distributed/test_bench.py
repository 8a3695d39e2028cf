"""What steps take on several processes, as the tool prints it."""

from __future__ import annotations

from pathlib import Path

from tests.distributed import jobs
from tests.distributed.pair import Pair
from tests.helpers.models import tiny_llama


def test_a_row_for_each_layout_and_strategy(pair: Pair, tmp_path: Path) -> None:
    tiny_llama().config.save_pretrained(tmp_path / "tiny")
    flags = ["--shape", str(tmp_path / "tiny"), "--batch", "3", "--length", "4", "--rounds", "1", "--device", "cpu"]
    printed, nothing = pair.run(jobs.bench, flags)
    assert nothing == ""
    rows = [[cell.strip() for cell in line.split("│")[1:6]] for line in printed.splitlines() if "│ zo_" in line]
    assert [row[:2] for row in rows] == [
        [layout, strategy]
        for layout in ("zo_ddp", "zo_fsdp")
        for strategy in ("ZOSGD", "SparseMeZO", "ZOAdam", "FOSGD", "FOAdam")
    ]
    assert all(float(row[4].replace(",", "")) > 0 for row in rows)
