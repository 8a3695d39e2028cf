"""A short run of every task whose real files are at hand, with a small real model, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.runs import curves, newest
from zolightning.cli import main

# The folder, and under which official name each file is taken; none stands for all as they are.
FILES: dict[str, tuple[str, dict[str, str]]] = {
    "SST2": ("SST-2", {}),
    "RTE": ("RTE", {}),
    "CB": ("CB", {}),
    "BoolQ": ("BoolQ", {}),
    "WSC": ("WSC", {}),
    "WiC": ("WiC", {}),
    "MultiRC": ("MultiRC", {}),
    "COPA": ("COPA", {}),
    "ReCoRD": ("ReCoRD", {"val.jsonl": "train_fewglue32.jsonl"}),
    "WinoGrande": ("WinoGrande", {}),
    "PIQA": ("PIQA", {}),
    "AQuA": ("AQuA", {}),
    "SQuAD": ("SQuAD", {}),
    "DROP": ("DROP", {"drop_dataset_dev.json": "drop_contrast_sets_test.json"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", FILES)
def test_fifty_steps_and_a_test(task: str, shared_data: Path, stories: Path, tmp_path: Path) -> None:
    name, renamed = FILES[task]
    folder = shared_data / name
    if renamed:
        folder = tmp_path / "data"
        folder.mkdir()
        for official, here in renamed.items():
            (folder / official).symlink_to(shared_data / name / here)
    flags = [f"--data={task}", f"--data.data_dir={folder}", "--data.num_train=16", "--data.num_dev=6"]
    flags += ["--data.num_test=6", "--data.batch_size=2", "--data.max_length=192", f"--model.backbone={stories}"]
    flags += ["--model.strategy=ZOSGD", "--model.strategy.lr=1e-6", "--model.strategy.eps=1e-3"]
    flags += ["--trainer.max_steps=50", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    main(["fit", *flags])
    losses = curves(newest(tmp_path / "runs"))["train/loss"]
    assert losses[-1][0] == 50
    assert all(0 < loss < 20 for _, loss in losses)
    main(["test", *flags, "--ckpt_path=best"])
