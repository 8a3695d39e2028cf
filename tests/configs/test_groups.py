"""Groups: one for each task and strategy, each whole, and all of them go together."""

from __future__ import annotations

import inspect
import json
import shlex
from pathlib import Path

import pytest
import yaml

import recipes
from tests.configs.conftest import Parse
from tests.conftest import ROOT
from tests.helpers.runs import fit, recipe
from zolightning import strategies, tasks
from zolightning.strategies import Strategy
from zolightning.tasks import Task

MODELS, DATA, STRATEGIES, TRAINERS, OVERLAYS = map(recipes.groups, ("model", "data", "strategy", "trainer", "overlay"))
CLASSES = {
    **{name: getattr(tasks, name) for name in tasks.__all__},
    **{name: getattr(strategies, name) for name in strategies.__all__},
}


def stem(path: Path) -> str:
    return path.stem


def class_of(group: Path) -> str:
    return str(yaml.safe_load(group.read_text())["class_path"])


@pytest.mark.parametrize(("folder", "groups", "base"), [("data", DATA, Task), ("strategy", STRATEGIES, Strategy)])
def test_every_class_has_a_group(folder: str, groups: list[Path], base: type) -> None:
    concrete = {name for name, one in CLASSES.items() if isinstance(one, type) and issubclass(one, base)}
    concrete -= {"ZerothOrder", "FirstOrder"} | {name for name in concrete if inspect.isabstract(CLASSES[name])}
    missing = sorted(concrete - set(map(class_of, groups)))
    assert not missing, (
        f"{', '.join(missing)} has no group: write configs/{folder}/<name>.yaml like {groups[0].relative_to(ROOT)}, "
        "then run python tools/recipes.py > configs/README.md"
    )


@pytest.mark.parametrize("group", [*DATA, *STRATEGIES], ids=stem)
def test_a_group_states_every_argument(group: Path) -> None:
    # Same-named arguments of the class that it replaces would leak into it.
    stated = yaml.safe_load(group.read_text())["init_args"].keys()
    arguments = inspect.signature(CLASSES[class_of(group)].__init__).parameters.keys() - {"self"}
    assert not arguments - stated, f"{group.relative_to(ROOT)} must also state {', '.join(sorted(arguments - stated))}"
    assert not stated - arguments, f"{class_of(group)} takes no {', '.join(sorted(stated - arguments))}"


@pytest.mark.parametrize("group", DATA, ids=stem)
def test_nothing_of_a_recipe_leaks_into_a_group_of_data(group: Path, parse: Parse) -> None:
    over = parse("--config", str(ROOT / "configs" / "sst2.yaml"), "--data.data_dir=here", "--data", str(group))
    alone = parse("--model", str(MODELS[0]), "--model.strategy", str(STRATEGIES[0]), "--data", str(group))
    assert over.data.as_dict() == alone.data.as_dict()


@pytest.mark.slow
def test_every_two_of_model_data_and_strategy_parse_together(parse: Parse) -> None:
    # All triples take minutes; the parser takes each block by itself, so every pair will do: a Latin square has them.
    columns = max(len(MODELS), len(STRATEGIES))
    for row in range(max(len(DATA), columns)):
        for column in range(columns):
            model, data = MODELS[column % len(MODELS)], DATA[row % len(DATA)]
            strategy = STRATEGIES[(row + column) % columns % len(STRATEGIES)]
            parsed = parse("--model", str(model), "--data", str(data), "--model.strategy", str(strategy))
            assert parsed.model.backbone == yaml.safe_load(model.read_text())["backbone"]
            assert parsed.data.class_path.endswith(f".{class_of(data)}")
            assert parsed.model.strategy.class_path.endswith(f".{class_of(strategy)}")


@pytest.mark.parametrize("group", MODELS, ids=stem)
def test_a_model_takes_its_place_in_a_recipe(group: Path, parse: Parse) -> None:
    config = ROOT / "configs" / "quickstart.yaml"
    before, after = parse("--config", str(config)), parse("--config", str(config), "--model", str(group))
    assert {**before.model.as_dict(), **yaml.safe_load(group.read_text())} == after.model.as_dict()
    assert {"backbone", "dtype"} <= yaml.safe_load(group.read_text()).keys()


@pytest.mark.parametrize("group", TRAINERS, ids=stem)
def test_a_trainer_takes_its_place_in_a_recipe(group: Path, parse: Parse) -> None:
    parsed = parse("--config", str(ROOT / "configs" / "sst2.yaml"), "--trainer", str(group))
    assert parsed.trainer.max_steps == 400
    assert {"accelerator", "devices"} == yaml.safe_load(group.read_text()).keys() - {"strategy"}
    assert parsed.trainer.accelerator == yaml.safe_load(group.read_text())["accelerator"]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=stem)
def test_an_overlay_is_laid_over_a_recipe(overlay: Path, parse: Parse) -> None:
    parsed = parse("--config", str(ROOT / "configs" / "sst2.yaml"), "--config", str(overlay))
    assert parsed.trainer.max_steps == yaml.safe_load(overlay.read_text())["trainer"]["max_steps"]
    assert parsed.model.backbone == "facebook/opt-1.3b"


def test_the_commands_of_the_page_parse(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = [line for line in recipes.COMMANDS.replace("\\\n", "").splitlines() if not line.startswith("#")]
    for command in commands:
        start, words = shlex.split(command)[:4], shlex.split(command)[4:]
        assert start == ["python", "-m", "zolightning", "fit"]
        parse(*words)
    assert len(commands) == 2


@pytest.mark.parametrize("group", STRATEGIES, ids=stem)
def test_a_strategy_runs_on_the_sample(group: Path, tmp_path: Path) -> None:
    run = fit(recipe(tmp_path), "--model.strategy", str(group), "--trainer.max_steps=2")
    assert json.loads((run / "result.json").read_text())["steps"] == 2
