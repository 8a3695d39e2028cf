"""Recipes on a real model and real task files, where these are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.conftest import ROOT
from tests.helpers.runs import newest
from zolightning.cli import main


@pytest.mark.slow
def test_the_zero_shot_level_on_sst2_is_the_known_one(stories: Path, shared_data: Path, tmp_path: Path) -> None:
    main(
        [
            *("fit", "--config", str(ROOT / "configs" / "sst2.yaml"), "--model.backbone", str(stories)),
            *("--data.data_dir", str(shared_data / "SST-2"), "--trainer.max_steps", "1", "--scoreboard.test", "true"),
            *("--trainer.default_root_dir", str(tmp_path)),
        ]
    )
    zero_shot = json.loads((newest(tmp_path) / "result.json").read_text())["zero_shot"]
    assert zero_shot["test accuracy"] == pytest.approx(0.600, abs=0.003)
    assert zero_shot["test loss"] == pytest.approx(0.778, abs=0.001)


@pytest.mark.slow
def test_the_mistral_recipe_trains_evaluates_and_exports(stories: Path, shared_data: Path, tmp_path: Path) -> None:
    main(
        [
            *("fit", "--config", str(ROOT / "configs" / "mistral_boolq_smezo.yaml"), "--model.backbone", str(stories)),
            *("--data.data_dir", str(shared_data / "BoolQ"), "--data.num_dev", "20", "--data.batch_size", "4"),
            *("--trainer.max_steps", "2", "--trainer.default_root_dir", str(tmp_path)),
        ]
    )
    run = newest(tmp_path)
    assert json.loads((run / "result.json").read_text())["dtype"] == "bfloat16"
    AutoModelForCausalLM.from_pretrained(run / "best")
