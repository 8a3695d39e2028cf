r"""Measure one step of each method against two bare forwards and against MeZO as everyone writes it.

    # The CPU targets: two cores, and again with --dtype bfloat16, and on SST-2 with the two lines below.
    python tools/bench_step.py --shape llama-15m --batch 16 --length 64 --threads 2 --json cpu.json --plot cpu.png
    python tools/bench_step.py --shape llama-15m --batch 16 --threads 2 --data ../shared/data/SST-2 \
        --tokenizer ../shared/models/stories3M --options ' bad' ' good'

    # One GPU; where this package is not installed, with PYTHONPATH=. in front.
    python tools/bench_step.py --shape opt-13b --dtype bfloat16 --batch 16 --length 256 --json opt.json --plot opt.png
    python tools/bench_step.py --shape llama-3-8b --dtype bfloat16 --batch 16 --length 256 --json llama.json
    python tools/bench_step.py --shape opt-66b --dtype bfloat16 --batch 16 --length 256 --steps 5 \
        --only two_forwards,textbook_mezo,zo_sgd_in_forward_gaussian,zo_sgd_in_forward_rademacher,fo_adamw

Repetitions alternate: each round runs every method once, in order, so that a machine that slows down slows all of them.
Figures are medians over the rounds. Peak memory is above the weights, with scratch, gradients and optimizer state;
bytes per weight are counted, not measured, and `tools/bench/contenders.py` says how. The batch is random prompts of one
length, each with two options of one token; with --data rows of SST-2, of which the textbook encodes each option as a
sequence of its own, as MeZO does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import zolightning
from bench.contenders import Contender, contenders
from bench.measure import Bench, Result
from bench.plot import draw
from bench.shapes import SHAPES, build
from bench.terminal import add_work, described, set_up
from bench.workload import Workload, random_work, sst2_work
from zolightning.perturbation.compiler import Compilations

Row = dict[str, Any]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = described(__doc__)
    add_work(parser)
    parser.add_argument("--steps", type=int, default=11, help="rounds, so timed steps of each method")
    parser.add_argument("--only", help="names of rows, with commas between them")
    parser.add_argument("--data", metavar="FOLDER", help="take the batch from the official files of SST-2")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="with --data; default: the one in the --shape folder")
    parser.add_argument("--options", nargs=2, metavar="WORD", help="with --data: the two options, if not the task's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there, a PNG; needs matplotlib")
    found = parser.parse_args(arguments)
    known = [contender.name for contender in contenders()]
    unknown = set(found.only.split(",")) - set(known) if found.only else set()
    if unknown:
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if min(found.steps, found.batch, found.length) < 1:
        parser.error("--steps, --batch and --length must be at least 1")
    if found.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib, which is not installed")
    if found.shape not in SHAPES and not Path(found.shape).is_dir():
        parser.error(f"--shape: {found.shape} is no folder and none of {', '.join(SHAPES)}")
    if found.data and found.shape in SHAPES and not found.tokenizer:
        parser.error("--data needs a --tokenizer, or a --shape folder that holds one")
    return found


def make_work(arguments: argparse.Namespace) -> Workload:
    """Make the model and the batch, and check that a forward is finite; it also lets libraries set themselves up.

    Raises:
        ValueError: if it is not.
    """
    device = torch.device(arguments.device)
    model = build(arguments.shape, arguments.dtype, device)
    if arguments.data:
        tokenizer = arguments.tokenizer or arguments.shape
        work = sst2_work(model, arguments.batch, device, arguments.data, tokenizer, arguments.options)
    else:
        work = random_work(model, arguments.batch, arguments.length, device)
    check_finite(work)
    return work


def check_finite(work: Workload) -> None:
    """Check that the loss is finite.

    Raises:
        ValueError: if it is not.
    """
    with torch.no_grad():
        if not torch.isfinite(work.loss()):
            raise ValueError("the loss is not finite at these weights, so the figures would mean nothing")


def measure(work: Workload, chosen: Sequence[Contender], rounds: int, console: Console) -> list[Result]:
    """Measure with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("compiling", total=len(chosen) * (1 + rounds))
        return Bench(work).run(chosen, rounds, lambda done: bar.update(task, advance=1, description=done))


def setting_of(arguments: argparse.Namespace, work: Workload) -> Row:
    """Return what was measured and on what."""
    cuda = work.device.type == "cuda"
    return {
        "shape": arguments.shape,
        "weights": work.counts().total,
        "batch": arguments.batch,
        "length": work.batch.input_ids.size(1),
        "textbook_input": list(work.textbook.input_ids.shape),
        "data": arguments.data,
        "steps": arguments.steps,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "zolightning": zolightning.__version__,
        "kernels_compiled": Compilations.number,
        "compile_seconds": round(Compilations.seconds, 1),
    }


def rows_of(results: Sequence[Result], work: Workload, dtype: str, setting: Row) -> list[Row]:
    """Return the table as plain data, with null where there is no figure."""
    medians = {result.contender.name: result.median for result in results}
    forwards, textbook = medians.get("two_forwards"), medians.get("textbook_mezo")
    counts = work.counts()
    return [
        {
            "name": result.contender.name,
            "strategy": result.contender.strategy,
            "probe": result.contender.probe,
            "distribution": result.contender.distribution,
            "idle_rows": result.contender.idle_rows,
            "dtype": dtype,
            "ms_per_step": (ms := result.median),
            "ratio_to_two_forwards": ms / forwards if ms and forwards else None,
            "speedup_over_textbook": textbook / ms if ms and textbook else None,
            "peak_bytes_above_weights": result.peak if result.error is None else None,
            "bytes_per_weight": round(result.contender.bytes_per_weight(counts), 2),
            "error": result.error,
            "ms_of_each_step": [round(one, 3) for one in result.milliseconds],
            "setting": setting,
        }
        for result in results
    ]


def title_of(dtype: str, setting: Row) -> str:
    """Return a line that says what was measured and on what."""
    source = "rows of SST-2, at most" if setting["data"] else "x"
    place = setting["device"] if setting["device"] != "cpu" else f"CPU, {setting['threads']} threads"
    return (
        f"{Path(setting['shape']).name} ({setting['weights']:,} weights, {dtype}), {setting['batch']} {source} "
        f"{setting['length']} tokens, {place}, torch {setting['torch']}"
    )


def table_of(rows: Sequence[Row], title: str) -> Table:
    """Return the table for the terminal."""
    table = Table(title=title)
    table.add_column("", no_wrap=True)
    for column in ("ms a step", "of two forwards", "over textbook", "peak MiB above weights", "bytes a weight"):
        table.add_column(column, justify="right")
    for row in rows:
        peak = row["peak_bytes_above_weights"]
        table.add_row(
            row["name"],
            row["error"] or _shown(row["ms_per_step"], ",.1f"),
            _shown(row["ratio_to_two_forwards"], ".2f"),
            _shown(row["speedup_over_textbook"], ".2f", "x"),
            _shown(None if peak is None else peak / (1 << 20), ",.1f"),
            _shown(row["bytes_per_weight"], ".1f"),
        )
    return table


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write what was asked for."""
    found = parse(arguments)
    console = set_up(found.threads)
    work = make_work(found)
    chosen = [one for one in contenders() if not found.only or one.name in found.only.split(",")]
    results = measure(work, chosen, found.steps, console)
    check_finite(work)
    setting = setting_of(found, work)
    rows = rows_of(results, work, found.dtype, setting)
    title = title_of(found.dtype, setting)
    console.print(table_of(rows, title))
    console.print(f"{setting['kernels_compiled']} kernels compiled in {setting['compile_seconds']} s")
    if found.json:
        found.json.write_text(json.dumps(rows, indent=2) + "\n")
    if found.plot:
        draw(rows, title, found.plot)


if __name__ == "__main__":
    main()
