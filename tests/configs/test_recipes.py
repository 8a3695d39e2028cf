"""Recipes: each parses, says what it needs, and is what its name and its first lines say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import recipes
from tests.configs.conftest import Parse
from tests.conftest import ROOT
from tests.helpers.runs import newest
from zolightning import tasks
from zolightning.cli import main

CONFIGS = ROOT / "configs"
HEADLINES = sorted((CONFIGS / "recipes").glob("*.yaml"))
METHODS = {"mezo": "ZOSGD", "smezo": "SparseMeZO"}


def stem(path: Path) -> str:
    return path.stem


def test_no_file_is_neither_recipe_nor_group() -> None:
    known = [*recipes.recipes(), *(path for kind in recipes.FLAGS for path in recipes.groups(kind))]
    assert sorted(known) == sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("path", recipes.recipes(), ids=stem)
def test_a_recipe_parses_and_has_a_header(path: Path, parse: Parse) -> None:
    parsed = parse("--config", str(path))
    assert parsed.trainer.max_steps > 0
    # Of a dotted key and a group for the same block the parser drops one without a word.
    assert not any("." in key for key in yaml.safe_load(path.read_text()))
    assert recipes.header(path, "Launch").startswith(f"python -m zolightning fit --config {path.relative_to(ROOT)}")
    for label in ("Needs", "Takes", "Try"):
        assert recipes.header(path, label), label


@pytest.mark.parametrize("path", recipes.recipes(), ids=stem)
def test_the_table_sees_what_the_parser_sees(path: Path, parse: Parse) -> None:
    parsed, loaded = parse("--config", str(path)), recipes.load(path)
    strategy, found = loaded["model"]["strategy"], parsed.model.strategy
    assert parsed.data.class_path.endswith(f".{loaded['data']['class_path']}")
    assert found.class_path.endswith(f".{strategy['class_path']}")
    for name in {"lr", "eps"} & strategy["init_args"].keys():
        assert found.init_args[name] == strategy["init_args"][name]


@pytest.mark.parametrize("path", HEADLINES, ids=stem)
def test_a_headline_recipe_is_what_its_name_says(path: Path) -> None:
    model, task, method, scheme = (*path.stem.split("_"), "full")[:4]
    config = yaml.safe_load(path.read_text())
    group = yaml.safe_load((CONFIGS / "model" / f"{model}.yaml").read_text())
    assert group.items() <= config["model"].items()
    assert config["model"]["scheme"] == scheme
    assert config["model"]["strategy"]["class_path"] == METHODS[method]
    assert config["data"] == f"../data/{task}.yaml"
    assert config["trainer"]["default_root_dir"] == f"runs/{path.stem}"


@pytest.mark.parametrize("path", HEADLINES, ids=stem)
def test_a_headline_recipe_names_its_files_and_how_it_is_tested(path: Path) -> None:
    source = getattr(tasks, recipes.load(path)["data"]["class_path"]).source
    needs = recipes.header(path, "Needs")
    files = re.search(r"--data\.data_dir FOLDER with (\S+) and (\S+)\.$", needs)
    assert files is not None
    assert files.group(1) == source.train_file
    assert files.group(2) in source.validation_file
    assert "an estimate" in needs
    assert recipes.header(path, "Then").endswith(f"test --config {path.relative_to(ROOT)} --ckpt_path best")


@pytest.mark.parametrize("path", HEADLINES, ids=stem)
def test_lr_and_eps_lie_in_the_grid_that_is_stated(path: Path) -> None:
    stated = re.match(r"lr ([^;]+); eps ([^;(]+) \(", recipes.header(path, "Grid"))
    assert stated is not None
    arguments = recipes.load(path)["model"]["strategy"]["init_args"]
    for name, values in zip(("lr", "eps"), stated.groups(), strict=True):
        assert arguments[name] in [float(value) for value in values.split(",")]


def test_paths_that_are_named_exist() -> None:
    texts = [*CONFIGS.rglob("*.yaml"), *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"]
    for text in texts:
        for name in re.findall(r"configs/[\w./-]+\.yaml", text.read_text()):
            assert (ROOT / name).is_file() or Path(name).stem.isupper(), f"{text}: {name}"


def test_a_recipe_runs_on_local_files(tmp_path: Path) -> None:
    rows = "".join(f"the story was {word}\t{label}\n" for label, word in enumerate(("bad", "good")) for _ in range(9))
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text(f"sentence\tlabel\n{rows}")
    flags = ["--config", str(CONFIGS / "recipes" / "opt-1.3b_sst2_mezo_lora.yaml"), "--model.backbone=sample"]
    flags += [f"--data.data_dir={tmp_path}", '--data.options=[" bad", " good"]', "--data.num_train=10"]
    flags += ["--data.num_dev=8", "--trainer.accelerator=cpu", "--trainer.max_steps=2"]
    main(["fit", *flags])
    run = newest(tmp_path / "runs" / "opt-1.3b_sst2_mezo_lora")
    assert json.loads((run / "result.json").read_text())["steps"] == 2
    main(["test", *flags, "--ckpt_path=best"])


def test_the_page_is_the_one_that_the_tool_prints() -> None:
    assert (CONFIGS / "README.md").read_text() == recipes.page(), "run python tools/recipes.py > configs/README.md"
