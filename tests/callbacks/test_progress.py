"""What the progress bar shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.runs import recipe
from zolightning.callbacks.progress import _numbers
from zolightning.cli import main


def test_numbers_show_what_has_been_logged() -> None:
    metrics = {"train/loss": torch.tensor(0.5), "train/projected_grad": torch.tensor(-12.0)}
    assert _numbers(metrics, "f1") == "loss 0.500  g -1.20e+01"
    assert _numbers({**metrics, "val/f1": torch.tensor(0.75)}, "f1").endswith("dev 0.750")


def test_a_run_shows_loss_gradient_dev_and_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", str(recipe(tmp_path))])
    out = capsys.readouterr().out
    for word in ("10/10", "loss", "steps/s", "zero-shot", "forward passes", "wall-clock", "peak memory", "tensorboard"):
        assert word in out, word
