"""Print configs/README.md: the tables of all recipes and groups, from the files themselves.

python tools/recipes.py > configs/README.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from tables import table

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FLAGS = {
    "model": "--model",
    "strategy": "--model.strategy",
    "data": "--data",
    "trainer": "--trainer",
    "overlay": "--config",
}
_HEAD = ("Recipe", "Model", "Task", "Strategy", "Scheme", "lr", "eps", "Steps", "Needs")
_PAGE = """\
# Recipes and groups

A recipe is a whole run: `python -m zolightning fit --config configs/RECIPE.yaml`. Its first lines say what it needs,
how it is launched, and in which grid its lr and eps lie: the papers publish grids, and seldom what they chose from
them, so search the grid before you compare (`tools/study.py`). Where a recipe says so, memory is an estimate.

{recipes}

A group is one block of a recipe. Lay groups over a recipe, or over each other: what stands later wins, so flags for
single values come last.

```sh
{commands}
```

{groups}

In a recipe a block is either a group, by its path from the recipe (`data: ../data/sst2.yaml`), or written out. Not half
of each: beside `trainer: ../trainer/cpu.yaml` the parser drops `trainer.max_steps: 100`, or the group, without a word.
Where the class of a block changes, arguments of the same name stay: a group of a strategy or a task therefore states
every argument, and so must a block of your own that is laid over another.

This page is printed by `python tools/recipes.py`.
"""
COMMANDS = """\
# a recipe with another strategy, on the processor
python -m zolightning fit --config configs/quickstart.yaml --model.strategy configs/strategy/zo_adam.yaml \\
    --trainer configs/trainer/cpu.yaml --trainer.max_steps 100
# groups alone
python -m zolightning fit --config configs/overlay/zeroth_order.yaml --model configs/model/opt-1.3b.yaml \\
    --model.strategy configs/strategy/zo_sgd.yaml --data configs/data/sst2.yaml \\
    --trainer configs/trainer/1gpu.yaml --model.strategy.lr 1e-6 --data.data_dir FOLDER
"""


def recipes() -> list[Path]:
    """Return the paths of all recipes."""
    return [*sorted(CONFIGS.glob("*.yaml")), *sorted((CONFIGS / "recipes").glob("*.yaml"))]


def groups(kind: str) -> list[Path]:
    """Return the paths of all groups of a kind: model, strategy, data, trainer or overlay."""
    return sorted((CONFIGS / kind).glob("*.yaml"))


def load(path: Path) -> dict[str, Any]:
    """Return a recipe with the groups that it includes in their places."""
    recipe = yaml.safe_load(path.read_text())
    for block, key in ((recipe, "data"), (recipe, "trainer"), (recipe["model"], "strategy")):
        if isinstance(block[key], str):
            block[key] = yaml.safe_load((path.parent / block[key]).read_text())
    loaded: dict[str, Any] = recipe
    return loaded


def header(path: Path, label: str) -> str:
    """Return what the first lines of a recipe say after a label, such as Needs, as one line."""
    found = re.search(rf"^# {label}: *(.*\n(?:#  .*\n)*)", path.read_text(), re.M)
    return "" if found is None else " ".join(found.group(1).replace("#", "").split())


def rows() -> Iterator[list[str]]:
    """Yield the row of each recipe."""
    for path in recipes():
        recipe = load(path)
        model, strategy = recipe["model"], recipe["model"]["strategy"]
        yield [
            f"[{path.stem}]({path.relative_to(CONFIGS)})",
            f"`{model['backbone']}`",
            f"`{recipe['data']['class_path']}`",
            f"`{strategy['class_path']}`",
            model["scheme"],
            *(_scientific(strategy["init_args"].get(name)) for name in ("lr", "eps")),
            f"{recipe['trainer']['max_steps']:,}",
            re.split(r" [(]|;", header(path, "Needs"))[0].strip(),
        ]


def page() -> str:
    """Return the page."""
    groups_table = table(
        ("Flag", "Folder", "Groups"),
        [
            [f"`{flag}`", f"[{kind}]({kind})", ", ".join(f"[{path.stem}]({kind}/{path.name})" for path in groups(kind))]
            for kind, flag in FLAGS.items()
        ],
    )
    return _PAGE.format(recipes=table(_HEAD, rows()), commands=COMMANDS.strip(), groups=groups_table)


def _scientific(number: float | None) -> str:
    return "" if number is None else f"{Decimal(str(number)):e}"


if __name__ == "__main__":
    print(page(), end="")
