"""Fault drills: real processes that are killed, and go on as if nothing had been."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
import torch

from tests.helpers.drills import Where, ended, killed, seconds, start
from tests.helpers.runs import newest, recipe, weights
from zolightning.journal import read
from zolightning.runs import JOURNAL

STEPS = 40
RECORDS = ("--journal.every_steps", "3")


def command(folder: Path, strategy: str = "SparseMeZO", **trainer: object) -> list[str]:
    folder.mkdir(exist_ok=True)
    settings = {"max_steps": STEPS, "enable_progress_bar": False, **trainer}
    return ["fit", "--config", str(recipe(folder, strategy, **settings)), *RECORDS]


def resumed(words: list[str], folder: Path) -> list[str]:
    """The same command line, for a run of which something is kept."""
    runs = list((folder / "runs").glob("version_*"))
    kept = runs and any((newest(folder / "runs") / name).is_file() for name in (JOURNAL, "checkpoints/last.ckpt"))
    return [*words, "--ckpt_path", "last"] if kept else words


def same(folder: Path, other: Path) -> None:
    """Both runs are the same to the bit: last and best weights, journal, exported model, results."""
    one, two = newest(folder / "runs"), newest(other / "runs")
    for name in ("last", "best"):
        kept, found = (weights(run / "checkpoints" / f"{name}.ckpt") for run in (one, two))
        assert kept.keys() == found.keys()
        assert all(torch.equal(kept[key], found[key]) for key in kept)
    for name in (JOURNAL, "best/model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    free = dict.fromkeys(("seconds", "peak_memory_gib"))
    told = [json.loads((run / "result.json").read_text()) for run in (one, two)]
    assert {**told[0], **free} == {**told[1], **free}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nothing happens to, and how long it takes."""
    folder = tmp_path_factory.mktemp("whole")
    words = command(folder)
    # The first process waits for all that is imported.
    ended(start(["--version"], folder / "version.txt"))
    took = seconds(lambda: ended(start(words, folder / "said.txt")))
    assert (newest(folder / "runs") / "result.json").exists(), (folder / "said.txt").read_text()
    return folder, took


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments(tmp_path: Path, whole: tuple[Path, float]) -> None:
    """A run is killed again and again until it is through; then the next, until it was done twenty times."""
    folder, took = whole
    drawn, kills, runs = random.Random(0), 0, 0
    while kills < 20:
        place, words = tmp_path / str(runs), command(tmp_path / str(runs))
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            status = killed(start(resumed(words, place), place / "said.txt"), drawn.uniform(0.0, took))
            kills += status == -signal.SIGKILL
        # Killed once its results were written, though its process had not ended.
        complete = status == 2 and "the run is complete at step 40" in (place / "said.txt").read_text()
        assert status == 0 or complete, (place / "said.txt").read_text()
        same(place, folder)
        runs += 1


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("in the journal", 4),
        ("in the journal", 1),
        ("in a snapshot", 3),
        ("at a rename", 1),
        ("at a rename", 4),
        ("before the result", 1),
    ],
)
def test_kill_9_half_way_through_a_write(tmp_path: Path, whole: tuple[Path, float], where: Where, number: int) -> None:
    words = command(tmp_path / "run")
    place = tmp_path / "run"
    assert ended(start(words, place / "said.txt", where, number)) == -signal.SIGKILL
    assert ended(start(resumed(words, place), place / "said.txt")) == 0, (place / "said.txt").read_text()
    same(place, whole[0])


def test_sigterm_loses_no_step(tmp_path: Path, whole: tuple[Path, float]) -> None:
    place, words = tmp_path / "run", command(tmp_path / "run", max_steps=100_000, val_check_interval=50_000)
    # Nothing but the signal lets records be written.
    words += ["--journal.every_steps", "1000000", "--journal.every_seconds", "1000000"]
    assert killed(start(words, place / "said.txt"), whole[1], signal.SIGTERM) == 128 + signal.SIGTERM
    said = (place / "said.txt").read_text()
    assert "To go on, add --ckpt_path last" in said
    assert "stopped by SIGTERM" in said
    assert len(read(newest(place / "runs") / JOURNAL).steps) > 0


@pytest.mark.parametrize("size", [2_500, 100_000])
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(tmp_path: Path, whole: tuple[Path, float], size: int) -> None:
    """The smaller limit stops the journal, the larger one a snapshot."""
    place, words = tmp_path / "run", command(tmp_path / "run")
    assert ended(start(words, place / "said.txt", "disk full", size)) == 2
    assert "make room, then go on with --ckpt_path last" in (place / "said.txt").read_text()
    assert ended(start(resumed(words, place), place / "said.txt")) == 0, (place / "said.txt").read_text()
    same(place, whole[0])


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from zolightning.cli import main

    words = command(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main([*words, "--trainer.default_root_dir", str(tmp_path / "file" / "runs")])
    assert "trainer.default_root_dir: nothing can be written to" in capsys.readouterr().err


def test_without_snapshots_the_journal_is_enough(tmp_path: Path, whole: tuple[Path, float]) -> None:
    place, words = tmp_path / "run", [*command(tmp_path / "run"), "--last_checkpoint.snapshot_every", "none"]
    assert ended(start(words, place / "said.txt", "in the journal", 6)) == -signal.SIGKILL
    assert not (newest(place / "runs") / "checkpoints" / "last.ckpt").exists()
    assert ended(start(resumed(words, place), place / "said.txt")) == 0, (place / "said.txt").read_text()
    run, other = newest(place / "runs"), newest(whole[0] / "runs")
    assert not (run / "checkpoints" / "last.ckpt").exists()
    assert (run / JOURNAL).read_bytes() == (other / JOURNAL).read_bytes()
    kept, found = (weights(folder / "checkpoints" / "best.ckpt") for folder in (run, other))
    assert all(torch.equal(kept[key], found[key]) for key in kept)
