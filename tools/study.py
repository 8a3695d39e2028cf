r"""Run one recipe over seeds and settings, and print a table with means and standard deviations.

    python tools/study.py --out runs/study --seeds 0 1 2 --vary model.strategy.lr=5e-7,1e-6 -- \
        --config configs/sst2.yaml --data.data_dir DATA

Everything after `--` goes to `python -m zolightning fit` as it is. Runs go one after another; a run whose result is
already there is not repeated, so a study that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

Setting = tuple[tuple[str, str], ...]


def settings(varied: Sequence[str]) -> Iterator[Setting]:
    """Yield every combination of `key=a,b,c` arguments as ((key, value), ...)."""
    grids = []
    for argument in varied:
        key, _, values = argument.partition("=")
        grids.append([(key, value) for value in values.split(",")])
    yield from itertools.product(*grids)


def run(out: Path, setting: Setting, seed: int, recipe: Sequence[str]) -> dict[str, Any]:
    """Run `fit` once, unless its result is there, and return what `result.json` holds."""
    name = "_".join([*(f"{key.rsplit('.', 1)[-1]}={Path(value).stem}" for key, value in setting), f"seed={seed}"])
    folder = out / name
    result = folder / "version_0" / "result.json"
    if not result.is_file():
        flags = [f"--{key}={value}" for key, value in setting]
        command = [sys.executable, "-m", "zolightning", "fit", *recipe, *flags, f"--seed_everything={seed}"]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w") as log:
            subprocess.run(
                [*command, f"--trainer.default_root_dir={folder}"], check=True, stdout=log, stderr=subprocess.STDOUT
            )
    loaded: dict[str, Any] = json.loads(result.read_text())
    return loaded


def summarise(setting: Setting, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a table row: the setting, its cost, and mean and standard deviation of each score over seeds."""
    row: dict[str, Any] = dict(setting)
    row.update(strategy=results[0]["strategy"], dtype=results[0]["dtype"], seeds=len(results))
    for stage in ("zero_shot", "final"):
        for score in results[0][stage]:
            values = [result[stage][score] for result in results]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            row[f"{stage.replace('_', '-')} {score}"] = f"{statistics.mean(values):.3f}{spread}"
    row["forward passes"] = results[0]["forward_passes"]
    row["seconds"] = f"{statistics.mean(result['seconds'] for result in results):.0f}"
    row["peak GiB"] = f"{max(result['peak_memory_gib'] or 0.0 for result in results):.3f}"
    return row


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="where the runs and the table go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each")
    parser.add_argument("--vary", nargs="*", default=[], metavar="KEY=A,B", help="settings to try, all combinations")
    parser.add_argument("recipe", nargs=argparse.REMAINDER, help="-- followed by the arguments of fit")
    arguments = parser.parse_args()
    recipe = [word for word in arguments.recipe if word != "--"]
    cells = list(itertools.product(settings(arguments.vary), arguments.seeds))
    results: dict[Setting, list[dict[str, Any]]] = {}
    for setting, seed in track(cells, description="runs"):
        results.setdefault(setting, []).append(run(arguments.out, setting, seed, recipe))
    rows = [summarise(setting, found) for setting, found in results.items()]
    table = Table(title="mean ± standard deviation over seeds")
    for column in ("", *(", ".join(value for _, value in setting) for setting in results)):
        table.add_column(column)
    for key in rows[0]:
        table.add_row(key, *(str(row[key]) for row in rows))
    Console().print(table)
    (arguments.out / "table.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
