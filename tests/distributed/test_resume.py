"""What a run of two processes leaves behind, and taking it up on another number of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.distributed import jobs
from tests.distributed.pair import Pair
from tests.helpers.runs import curves, newest, recipe, weights
from zolightning.cli import main

TWO = ("--trainer.devices=2", "--trainer.strategy=zo_ddp")


def fit(processes: int, pair: Pair, config: Path, *flags: str) -> Path:
    words = ["fit", "--config", str(config), *flags]
    if processes == 2:
        pair.run(jobs.command, *words, *TWO)
    else:
        main(words)
    return newest(config.parent / "runs")


def folder(path: Path, name: str) -> Path:
    (path / name).mkdir()
    return path / name


def test_a_run_is_taken_up_on_another_number_of_processes(pair: Pair, tmp_path: Path) -> None:
    whole = last(fit(2, pair, recipe(folder(tmp_path, "whole"), "ZOAdam")))
    for before in (1, 2):
        begun = fit(before, pair, recipe(folder(tmp_path, f"begun by {before}"), "ZOAdam"), "--trainer.max_steps=8")
        for after in {2, 3 - before}:
            config = recipe(folder(tmp_path, f"from {before} on {after}"), "ZOAdam")
            shutil.copytree(begun.parent, config.parent / "runs")
            # As they are taken up, to the bit.
            still = fit(after, pair, config, "--ckpt_path=last", "--trainer.max_steps=9", "--model.strategy.lr=0")
            assert still.name == begun.name, "a resumed run goes on in its folder"
            assert equal(last(still), last(begun))
            shutil.copytree(begun.parent, config.parent / "runs", dirs_exist_ok=True)
            ended = last(fit(after, pair, config, "--ckpt_path=last"))
            if before == after:
                assert equal(ended, whole)
            for name, value in whole.items():
                # Adam divides by the root of the second moment, which makes much of a rounding where it is small.
                torch.testing.assert_close(ended[name], value, rtol=0, atol=1e-4)


def last(run: Path) -> dict[str, Tensor]:
    return weights(run / "checkpoints" / "last.ckpt")


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_behind_what_one_process_leaves(pair: Pair, tmp_path: Path) -> None:
    runs = [fit(processes, pair, recipe(folder(tmp_path, str(processes)))) for processes in (1, 2)]
    alone, together = (sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()) for run in runs)
    tidy = [[name for name in names if "tfevents" not in name] for names in (alone, together)]
    assert tidy[0] == tidy[1]
    assert len(alone) == len(together), "one process writes curves"
    first, second = (json.loads((run / "result.json").read_text()) for run in runs)
    assert (first.pop("processes"), second.pop("processes")) == (1, 2)
    for name in ("steps", "forward_passes", "seed"):
        assert first[name] == second[name]
    for name in ("zero_shot", "final"):
        assert first[name] == pytest.approx(second[name], rel=1e-4)
    assert dict(curves(runs[0])["val/loss"]) == pytest.approx(dict(curves(runs[1])["val/loss"]), rel=1e-4)
    best = weights(runs[1] / "checkpoints" / "best.ckpt")
    for name, value in load_file(runs[1] / "best" / "model.safetensors").items():
        assert torch.equal(best[f"model.{name}"], value), "the best weights were loaded"


def test_test_and_predict_find_the_run(pair: Pair, tmp_path: Path) -> None:
    config = recipe(tmp_path)
    run = fit(2, pair, config, "--trainer.max_steps=4")
    pair.run(jobs.command, "test", "--config", str(config), "--ckpt_path=best", *TWO)
    pair.run(jobs.command, "predict", "--config", str(config), f"--ckpt_path={run}/checkpoints/best.ckpt", *TWO)
    (written,) = (tmp_path / "runs").rglob("predictions.jsonl")
    assert len(written.read_text().splitlines()) == 24
