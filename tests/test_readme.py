"""The README's commands: CI runs the first two as they stand, and the others run here."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers.runs import fit, recipe

README = (ROOT / "README.md").read_text()
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
SET_UP, OTHERS = SHELL[:2], SHELL[2:]


def test_ci_runs_the_two_set_up_commands() -> None:
    assert SET_UP[0].startswith("pip install -c constraints.txt -e . && python -m zolightning fit")
    assert SET_UP[1].endswith("python -m pytest")
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    for command in SET_UP:
        assert command in script


def stand_ins(folder: Path) -> list[str]:
    """Flags that put what is here in the place of what is on the hub, and end soon."""
    data = folder / "boolq"
    data.mkdir(exist_ok=True)
    row = {"passage": "the story was fresh .", "question": "was it good", "label": True}
    for name, count in (("train", 60), ("val", 20)):
        lines = (json.dumps({**row, "idx": index, "label": bool(index % 2)}) for index in range(count))
        (data / f"{name}.jsonl").write_text("\n".join(lines))
    return [
        *("--model.backbone", "sample", "--model.dtype", "float32", "--data.data_dir", str(data)),
        *("--data.options", '[" good", " bad"]', "--data.num_train", "30", "--data.num_dev", "20"),
        *("--trainer.max_steps", "2"),
    ]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's relative paths hold, and which the commands may write to."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "tools", "zolightning"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def words_of(command: str, folder: Path) -> list[str]:
    words = shlex.split(command)
    if words[0] == "tensorboard":
        return [sys.executable, "-m", "tensorboard.main", *words[1:], "--inspect"]
    words[0] = sys.executable
    if "mistral" in command and words[1] == "-m":
        words += stand_ins(folder)
    if "--trainer configs" in command:
        # Processes of the processor in the place of GPUs; and a folder of their own, of which they are the newest run.
        words += [
            "--trainer.accelerator",
            "cpu",
            "--trainer.devices",
            "2",
            "--trainer.default_root_dir",
            "runs/several",
        ]
    if command.endswith("--ckpt_path last"):
        words += ["--trainer.max_steps", "3"]
    if "bench_step.py" in command:
        words += ["--steps", "1", "--only", "two_forwards,textbook_mezo,zo_sgd_in_forward_gaussian"]
    if "study.py" in command:
        seeds = words.index("--seeds")
        words = [*words[: seeds + 2], *words[seeds + 4 :], "--trainer.max_steps=2"]
    return words


def test_every_other_command_runs(checkout: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(checkout / "huggingface")}
    commands = sorted(OTHERS, key=lambda command: command.startswith("tensorboard"))  # It reads what the others log.
    assert len(commands) >= 6
    for command in commands:
        done = subprocess.run(
            words_of(command, checkout), cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert list(checkout.glob("runs/mistral_boolq_smezo/version_*/best/model.safetensors"))
    assert (checkout / "runs" / "study" / "table.json").is_file()
    assert (checkout / "tuned" / "model.safetensors").is_file()


@pytest.mark.parametrize("code", PYTHON, ids=["lightning", "torch"])
def test_the_python_examples_run(code: str) -> None:
    exec(compile(code.replace("max_steps=100", "max_steps=3"), "README.md", "exec"), {})


def test_the_strategy_of_contributing_runs_from_yaml(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (tmp_path / "mine.py").write_text(textwrap.dedent(code))
    config = recipe(tmp_path, "ZOSGD")
    config.write_text(config.read_text().replace("class_path: ZOSGD", "class_path: mine.ZOSGDClipped"))
    run = fit(config, "--model.strategy.num_queries=2")
    assert json.loads((run / "result.json").read_text())["forward_passes"] == 40


def test_readme_lists_every_strategy_and_task() -> None:
    from zolightning import strategies, tasks

    bases = {"Strategy", "FirstOrder", "ZerothOrder", "Task", "GenerationTask", "Source"}
    for name in {*strategies.__all__, *tasks.__all__} - bases:
        assert f"`{name}`" in README, name


def test_the_table_of_strategies_is_the_one_that_the_tool_prints() -> None:
    command = [sys.executable, "tools/strategies.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr
    assert done.stdout.strip() in README


def test_every_strategy_has_a_row_and_a_recipe() -> None:
    from zolightning import strategies

    texts = [path.read_text() for path in (ROOT / "configs" / "strategy").glob("*.yaml")]
    for name in set(strategies.__all__) - {"Strategy", "FirstOrder", "ZerothOrder"}:
        assert getattr(strategies, name).card is not None
        assert any(f"class_path: {name}\n" in text for text in texts), name
