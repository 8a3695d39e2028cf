"""Measure what a run pays for its journal, and what a replay costs beside the run.

    python tools/bench_journal.py --shape llama-15m --batch 16 --length 64 --threads 2
    python tools/bench_journal.py --shape llama-15m --batch 16 --length 64 --threads 2 --distribution rademacher

Of one model and one batch, in turns, medians over the rounds: a step of ZOSGD; writing the records of as many steps as
a run lets gather, with the wait for the disk; taking steps again from their records, without forwards: a pass over the
weights for each, and several in a pass where that can be done.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from rich.table import Table

from bench.shapes import build
from bench.terminal import add_work, described, place, set_up, versions
from bench.workload import random_work
from zolightning.journal import JournalWriter, read, replay
from zolightning.journal.identity import describe
from zolightning.journal.layout import FORMAT
from zolightning.optim.records import Taken
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.perturbation.options import Distribution, EngineOptions


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = described(__doc__)
    add_work(parser)
    parser.add_argument("--distribution", choices=get_args(Distribution), default="gaussian", help="of the directions")
    parser.add_argument("--every", type=int, default=100, help="steps whose records are written at once (100)")
    parser.add_argument("--rounds", type=int, default=11, help="(11)")
    parser.add_argument("--folder", type=Path, help="where to write the journal; default: a temporary folder")
    return parser.parse_args(arguments)


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Return how long something takes, the device's work included."""
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(found: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Return the medians of a step, of its record, and of taking it again in a pass of its own or not, in seconds."""
    device = torch.device(found.device)
    model = build(found.shape, found.dtype, device)
    work = random_work(model, found.batch, found.length, device)
    options = EngineOptions(distribution=found.distribution)
    optimizers = {
        name: ZerothOrderOptimizer(model, lr=1e-6, eps=1e-3, engine=options) for name in ("step", "replay", "many")
    }
    optimizer = optimizers["step"]
    header = {"format": FORMAT, **describe(optimizer)}
    known: list[Taken] = []
    times: dict[str, list[float]] = {"step": [], "record": [], "replay": [], "many": []}
    with JournalWriter(folder / "journal.zoj", header) as writer:

        def step() -> None:
            optimizer.step(work.loss)
            assert optimizer.taken is not None
            known.append(optimizer.taken)

        def write() -> None:
            last = known[-1]
            first = found.every * len(times["record"])
            writer.append_taken([(last._replace(step=first + number), 2) for number in range(found.every)])

        # The first of each compiles and allocates.
        for number in range(found.rounds + 1):
            times["step"].append(seconds(step, device))
            times["record"].append(seconds(write, device) / found.every)
            some = read(writer.path).steps[found.every * number :]
            for name, several in {"replay": False, "many": True}.items():
                took = seconds(partial(replay, optimizers[name], some, several=several), device)
                times[name].append(took / found.every)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    found = parse(arguments)
    console = set_up(found.threads)
    with tempfile.TemporaryDirectory(dir=found.folder) as folder:
        medians = measure(found, Path(folder))
    title = f"{found.shape}, {found.dtype}, {found.distribution}, {found.batch} x {found.length} tokens"
    console.print(f"{title}, {place(found.device)}, {versions()}", soft_wrap=True)
    table = Table("")
    for column in ("ms", "of a step"):
        table.add_column(column, justify="right")
    names = {"step": "a step", "record": "its record, written", "replay": "the step, taken again"}
    names["many"] = "the same, several in a pass"
    for key, name in names.items():
        table.add_row(name, f"{1e3 * medians[key]:.3f}", f"{100 * medians[key] / medians['step']:.2f} %")
    console.print(table)


if __name__ == "__main__":
    main()
