"""Measure what a hybrid step holds with none to all of a model's blocks first-order.

    python tools/hybrid_memory.py --shape llama-15m --batch 16 --length 64 --plot hybrid.png

MeZO below, FO-Adam on the last blocks and the head. Peak memory is above the weights, with gradients, first-order state
and activations; `bench_step.py` has the time of a step with one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import Progress
from rich.table import Table

from bench.contenders import EPS, LR, of_strategy
from bench.measure import Bench, Result
from bench.shapes import build
from bench.terminal import add_work, described, set_up
from bench.workload import random_work
from zolightning.optim.blocks import layers_of
from zolightning.strategies import ZOSGD, FOAdam, HybridZOFO

_MIB = 1 << 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and draw what was asked for."""
    parser = described(__doc__)
    add_work(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw memory by blocks there, a PNG")
    found = parser.parse_args(arguments)
    console, device = set_up(found.threads), torch.device(found.device)
    work = random_work(build(found.shape, found.dtype, device), found.batch, found.length, device)
    blocks = len(list(layers_of(work.model)))
    chosen = [
        of_strategy(f"{count} of {blocks}", HybridZOFO(ZOSGD(LR, EPS), FOAdam(LR), count), lambda _: 0.0)
        for count in range(blocks + 1)
    ]
    with Progress() as bar:
        task = bar.add_task("settings", total=len(chosen))
        results = Bench(work).run(chosen, 0, lambda _: bar.advance(task))
    where = f"{found.batch} x {found.length} tokens, {device.type}, torch {torch.__version__}"
    title = f"{found.shape}, {found.dtype}, {where}"
    table = Table("first-order blocks", "peak MiB above weights", title=title)
    for result in results:
        table.add_row(result.contender.name, "out of memory" if result.peak is None else f"{result.peak / _MIB:,.1f}")
    console.print(table)
    if found.plot:
        draw(results, title, found.plot)


def draw(results: Sequence[Result], title: str, file: Path) -> None:
    """Draw peak memory over the number of first-order blocks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    peaks = [float("nan") if result.peak is None else result.peak / _MIB for result in results]
    axes.plot(range(len(peaks)), peaks, marker="o", color="#8172b3")
    for count, peak in enumerate(peaks):
        axes.annotate(f"{peak:,.0f}", (count, peak), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=9)
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(len(peaks)), ["0: MeZO", *map(str, range(1, len(peaks) - 1)), f"{len(peaks) - 1}: FO-Adam"])
    axes.set_xlabel("first-order blocks, from the last one down")
    axes.set_ylabel("peak memory above the weights, MiB")
    axes.margins(y=0.15)
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120, format="png")


if __name__ == "__main__":
    main()
