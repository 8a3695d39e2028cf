"""Every recipe parses, says what it needs, and names whole strategies."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.helpers.runs import fit, recipe
from zolightning import strategies
from zolightning.cli import main

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
GROUPS = sorted((ROOT / "configs" / "strategies").glob("*.yaml"))


def overlay(path: Path) -> bool:
    return path.stem.endswith("_run")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_recipe_parses_and_has_a_header(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(path), "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_steps"] > 0
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Needs:", "Takes:", "Launch: python -m zolightning", "Try:"):
        assert any(word in line for line in header), word


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: path.stem)
def test_a_strategy_group_parses_over_a_recipe(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--config", str(path)] if overlay(path) else ["--model.strategy", str(path)]
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(ROOT / "configs" / "sst2.yaml"), *flags, "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["strategy"]
    assert printed["class_path"].rsplit(".", 1)[-1] in strategies.__all__


@pytest.mark.parametrize("path", [path for path in GROUPS if not overlay(path)], ids=lambda path: path.stem)
def test_a_strategy_group_states_every_argument(path: Path) -> None:
    # Same-named arguments of the strategy that it replaces would leak into it.
    group = yaml.safe_load(path.read_text())
    arguments = inspect.signature(getattr(strategies, group["class_path"]).__init__).parameters.keys() - {"self"}
    assert group["init_args"].keys() == arguments


@pytest.mark.parametrize("path", [path for path in GROUPS if not overlay(path)], ids=lambda path: path.stem)
def test_a_strategy_group_runs_on_the_sample(path: Path, tmp_path: Path) -> None:
    run = fit(recipe(tmp_path), "--model.strategy", str(path), "--trainer.max_steps=2")
    assert json.loads((run / "result.json").read_text())["steps"] == 2
