"""The command line starts its own processes; if one dies, so do all, and the run can be taken up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.helpers.runs import newest, recipe
from zolightning.journal import read

INIT = "--trainer.strategy.init_args.timeout_minutes"


def start(config: Path, *flags: str) -> subprocess.Popen[str]:
    """Begin a run on two processes."""
    words = [sys.executable, "-m", "zolightning", "fit", "--config", str(config), "--trainer.devices=2", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, cwd=config.parent, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def children(parent: int) -> Sequence[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def saved_by(run: subprocess.Popen[str], folder: Path) -> Path:
    """Wait for a run's first snapshot, and return it."""
    saved, deadline = folder / "runs" / "version_0" / "checkpoints" / "last.ckpt", time.monotonic() + 200
    while not saved.is_file():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return saved


@pytest.mark.slow
def test_the_command_line_refuses_another_strategy_and_runs_on_two_processes(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    refused = start(config, "--trainer.strategy=ddp")
    said, _ = refused.communicate(timeout=300)
    assert refused.returncode == 2
    assert "set it to zo_ddp" in said
    run = start(config, "--trainer.strategy=zo_ddp")
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    # Everything is said once, of the whole run.
    assert said.count("Results are in") == 1
    assert (newest(tmp_path / "runs") / "result.json").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
@pytest.mark.parametrize("victim", ["first", "second"])
def test_if_one_process_dies_all_do_and_the_run_is_taken_up(victim: str, tmp_path: Path) -> None:
    config = recipe(tmp_path, max_steps=100_000)
    run = start(config, "--trainer.strategy.class_path=zolightning.distributed.ReplicatedStrategy", f"{INIT}=1.5")
    saved = saved_by(run, tmp_path)
    (second,) = children(run.pid)
    os.kill(run.pid if victim == "first" else second, signal.SIGKILL)
    said, _ = run.communicate(timeout=200)  # Until both have closed their output.
    assert run.returncode != 0, said
    assert not Path(f"/proc/{second}").exists() or "Z" in Path(f"/proc/{second}/stat").read_text().split()[2]
    steps = torch.load(saved, weights_only=True)["global_step"]
    again = start(config, "--trainer.strategy=zo_ddp", "--ckpt_path=last", f"--trainer.max_steps={steps + 4}")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert torch.load(saved, weights_only=True)["global_step"] == steps + 4


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
@pytest.mark.parametrize("asked", ["all", "first", "second"])
def test_sigterm_ends_all_after_the_same_step(asked: str, tmp_path: Path) -> None:
    """A scheduler asks all processes, at moments that differ, and none waits for another."""
    # Nothing but the signal lets records be written.
    words = ("--trainer.strategy=zo_ddp", "--journal.every_steps=100000", "--journal.every_seconds=10000")
    config = recipe(tmp_path, max_steps=100_000, val_check_interval=20)
    run = start(config, *words)
    saved = saved_by(run, tmp_path)
    (second,) = children(run.pid)
    for number, process in enumerate({"all": [second, run.pid], "first": [run.pid], "second": [second]}[asked]):
        time.sleep(0.2 * number)
        os.kill(process, signal.SIGTERM)
    said, _ = run.communicate(timeout=60)
    # One that is asked once it has ended may die of it on its way out; a shell tells both as 143.
    assert run.returncode in (128 + signal.SIGTERM, -signal.SIGTERM), said
    assert "stopped by SIGTERM" in said
    steps = len(read(saved.parents[1] / "journal.zoj").steps)
    assert steps >= torch.load(saved, weights_only=True)["global_step"]
    again = start(config, *words, "--ckpt_path=last", f"--trainer.max_steps={steps + 4}")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
