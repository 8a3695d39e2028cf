"""How far weights drift when they are probed for thousands of steps and never updated (lr 0), by dtype and probe mode.

    python tools/drift.py --json drift.json --plot drift.png

The weights are those of four linear layers, N(0, 0.02^2). What is printed is the distance from the start as a share of
the weights' norm, and whether every bit is as it was.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from zolightning.perturbation.options import EngineOptions, ProbeMode
from zolightning.strategies import ZOSGD

DTYPES = ("float64", "float32", "bfloat16", "float16")


def network(dtype: torch.dtype, width: int) -> nn.Module:
    """Return four linear layers with weights N(0, 0.02^2)."""
    torch.manual_seed(0)
    layers = [nn.Linear(width, width, bias=False, dtype=dtype) for _ in range(4)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.02)
    return nn.Sequential(*layers)


def run(dtype: str, probe: ProbeMode, arguments: argparse.Namespace, tick: Any) -> dict[str, Any]:
    """Probe a network for many steps and return its row."""
    model = network(getattr(torch, dtype), arguments.width)
    data = torch.randn(4, arguments.width).to(getattr(torch, dtype))
    optimizer = ZOSGD(lr=0.0, eps=1e-3, engine=EngineOptions(probe=probe, compiled=True)).configure(model)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    steps, drifts = [0], [0.0]
    for step in range(1, arguments.steps + 1):
        optimizer.step(lambda: model(data).float().square().mean())
        tick()
        if step % arguments.every == 0 or step == arguments.steps:
            steps.append(step)
            drifts.append(drift(model, start))
    same = all(torch.equal(bits(p), bits(q)) for p, q in zip(model.parameters(), start, strict=True))
    return {"dtype": dtype, "probe": probe, "steps": steps, "drift": drifts, "bit_equal": same}


def drift(model: nn.Module, start: Sequence[Tensor]) -> float:
    """Return the norm of the weights' change over the norm of the weights."""
    pairs = [(p.detach().double(), q.double()) for p, q in zip(model.parameters(), start, strict=True)]
    change = sum(float((p - q).square().sum()) for p, q in pairs)
    return math.sqrt(change / sum(float(q.square().sum()) for _, q in pairs))


def bits(weight: Tensor) -> Tensor:
    """Return a weight's bits."""
    return weight.detach().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()])


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the drift of every dtype in place; in the forward there is none to draw on a logarithmic axis."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(6.5, 4.2), constrained_layout=True)
    for row in rows:
        if row["probe"] == "in_place":
            panel.plot(row["steps"][1:], row["drift"][1:], label=row["dtype"], linewidth=2)
    panel.set(
        xlabel="step, at learning rate 0",
        ylabel="change of the weights / their norm",
        yscale="log",
        title="Drift of in-place probes (in the forward: exactly 0)",
    )
    panel.legend(frameon=False)
    panel.grid(alpha=0.3)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Read the command line, run, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=50, help="steps between measurements (50); the last counts too")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    modes: tuple[ProbeMode, ...] = get_args(ProbeMode)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("steps", total=len(DTYPES) * len(modes) * arguments.steps)
        rows = [run(dtype, mode, arguments, lambda: progress.advance(bar)) for dtype in DTYPES for mode in modes]
    table = Table("dtype", "probe", f"change after {arguments.steps:,} steps", "every bit as it was")
    for row in rows:
        table.add_row(row["dtype"], row["probe"], f"{row['drift'][-1]:.2e}", "yes" if row["bit_equal"] else "no")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
