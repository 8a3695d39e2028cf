r"""Train one task under several engine options side by side, and measure how far the weights and the losses part.

    python tools/precision.py --model MODEL --data DATA --steps 2000 --json out.json --plot out.png \
        --variant float32=float32 --variant "bfloat16, stochastic=bfloat16" \
        --variant "bfloat16, nearest=bfloat16,rounding=nearest"

A variant is `name=dtype[,option=value...]` with the options of `EngineOptions`. All variants of a seed see the same
batches and the same directions; distances are to the first variant's weights. Beside each measured distance stands the
one that its causes predict, as a root mean square over the weights:

- rounding of the start: measured;
- rounding of the updates: a weight that moves by d on a grid of spacing u is rounded up or down at random, with
  variance u^2 f (1 - f), f the fraction of |d| / u, which adds up over the steps;
- other projected gradients: both runs move along the same directions, so that sum_t lr^2 (g_t - g'_t)^2 adds up.

"Followed" is the share of the first variant's whole movement that another one has made too, <d', d> / <d, d>: one for a
run that only adds noise, less for one whose updates are lost.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from zolightning.evaluation import evaluate
from zolightning.models.batch import OptionBatch
from zolightning.models.loading import Dtype, load_config, load_model, load_tokenizer, max_positions
from zolightning.perturbation.options import EngineOptions
from zolightning.strategies import ZOSGD
from zolightning.tasks import SST2

DIGITS = {"dev_accuracy": 3, "dev_loss": 3, "followed": 3, "distance": 6, "predicted_distance": 6}


@dataclass(frozen=True)
class Variant:
    """Engine options under a name."""

    name: str
    dtype: Dtype
    options: EngineOptions

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read `name=dtype[,option=value...]`."""
        name, _, rest = text.partition("=")
        dtype, *pairs = rest.split(",")
        return cls(name, dtype, EngineOptions(**dict(pair.split("=") for pair in pairs)))  # type: ignore[arg-type]


@dataclass
class Course:
    """What one run was like: at some steps its scores on dev, its weights, and what moved them."""

    steps: list[int] = field(default_factory=list)
    dev: list[dict[str, float]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)


def batches(task: SST2) -> Iterator[OptionBatch]:
    """Yield training batches without end."""
    loader = task.train_dataloader()
    for _ in count():
        yield from loader


def run(variant: Variant, seed: int, arguments: argparse.Namespace, tick: Any) -> Course:
    """Train with one variant and return its course."""
    model = load_model(arguments.model, variant.dtype, "sdpa")
    task = SST2(
        data_dir=arguments.data,
        options=[" bad", " good"],
        batch_size=arguments.batch,
        num_train=4000,
        num_dev=500,
    )
    task.connect(load_tokenizer(arguments.model), max_positions(load_config(arguments.model)), seed=seed)
    strategy = ZOSGD(lr=arguments.lr, eps=arguments.eps, engine=variant.options)
    optimizer = strategy.configure(model, seed=seed)
    course = Course()
    note(course, 0, task, model)
    for step, batch in enumerate(islice(batches(task), arguments.steps), 1):
        strategy.training_step(optimizer, partial(task.loss, model, batch))
        course.gradients.append(strategy.metrics(optimizer)["projected_grad"])
        tick()
        if step % arguments.every == 0 or step == arguments.steps:
            note(course, step, task, model)
    return course


def note(course: Course, step: int, task: SST2, model: nn.Module) -> None:
    """Write down scores on dev and the weights."""
    course.steps.append(step)
    course.dev.append(evaluate(task, model, task.val_dataloader(), torch.device("cpu")))
    course.weights.append({name: p.detach().clone() for name, p in model.named_parameters()})


def distance(course: Course, base: Course, index: int) -> float:
    """Return the root mean square distance of the weights of two courses."""
    pairs = [(course.weights[index][name].float(), weight.float()) for name, weight in base.weights[index].items()]
    squares = sum(float((mine - theirs).square().sum(dtype=torch.float64)) for mine, theirs in pairs)
    return math.sqrt(squares / sum(theirs.numel() for _, theirs in pairs))


def followed(course: Course, base: Course, index: int) -> float:
    """Return the share of one course's movement that another has made too."""
    along = length = 0.0
    for name, start in base.weights[0].items():
        theirs = (base.weights[index][name].float() - start.float()).double()
        mine = (course.weights[index][name].float() - course.weights[0][name].float()).double()
        along += float((mine * theirs).sum())
        length += float(theirs.square().sum())
    return along / length if length else 1.0


def grid(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the spacings that weights have on the grid of their dtype, and the fraction of weights at each."""
    exponents = []
    for weight in weights.values():
        if weight.dtype == torch.float32:
            # Its own rounding is not counted.
            return torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        # Normal numbers of b bits of fraction in [2^e, 2^(e+1)) are 2^(e-b) apart.
        fraction = -math.log2(torch.finfo(weight.dtype).eps)
        exponents.append(torch.floor(torch.log2(weight.double().abs().clamp(min=2.0**-40))).flatten() - fraction)
    found, numbers = torch.unique(torch.cat(exponents), return_counts=True)
    return torch.exp2(found), numbers / numbers.sum()


def walk(course: Course, steps: int, lr: float) -> float:
    """Return the mean square that stochastic rounding of the updates adds up to: sum_t E[u^2 f (1 - f)].

    A weight that is to move by d, on a grid of spacing u, lies a fraction f = frac(|d| / u) between two neighbours.
    """
    spacings, shares = grid(course.weights[0])
    if not spacings.any():
        return 0.0
    z = torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000).abs()
    total = 0.0
    for gradient in torch.stack(course.gradients)[:steps].double():
        fraction = (lr * gradient.abs() * z.unsqueeze(1) / spacings).frac()
        total += float((shares * spacings.square() * (fraction * (1 - fraction)).mean(0)).sum())
    return total


def predicted(course: Course, base: Course, index: int, lr: float) -> float:
    """Return the distance that rounding and the difference of the projected gradients explain."""
    steps = course.steps[index]
    if not steps:
        return distance(course, base, 0)
    mine, theirs = torch.stack(course.gradients)[:steps].double(), torch.stack(base.gradients)[:steps].double()
    parting = lr**2 * float((mine - theirs).square().sum())
    return math.sqrt(distance(course, base, 0) ** 2 + walk(course, steps, lr) + parting)


def study(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all variants and seeds and return a row for each."""
    variants = [Variant.parse(text) for text in arguments.variant]
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("steps", total=len(variants) * len(arguments.seeds) * arguments.steps)
        for seed in arguments.seeds:
            base: Course | None = None
            for variant in variants:
                course = run(variant, seed, arguments, lambda: progress.advance(bar))
                base = base or course
                places = range(len(course.steps))
                rows.append(
                    {
                        "variant": variant.name,
                        "seed": seed,
                        "steps": course.steps,
                        "dev_loss": [scores["loss"] for scores in course.dev],
                        "dev_accuracy": [scores["accuracy"] for scores in course.dev],
                        "followed": [followed(course, base, place) for place in places],
                        "distance": [distance(course, base, place) for place in places],
                        "predicted_distance": [predicted(course, base, place, arguments.lr) for place in places],
                    }
                )
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the end of every variant, mean and standard deviation over seeds."""
    table = Table("variant", "dev accuracy", "dev loss", "followed", "distance", "predicted")
    for name in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == name]
        cells = []
        for key, digits in DIGITS.items():
            last = [row[key][-1] for row in mine]
            spread = statistics.stdev(last) if len(last) > 1 else 0.0
            cells.append(f"{statistics.mean(last):.{digits}f} ± {spread:.{digits}f}")
        table.add_row(name, *cells)
    Console().print(table)


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw dev loss and distance over steps, a line a variant, a thin one a seed."""
    import matplotlib.pyplot as plt

    panels = {
        "dev_loss": "dev loss",
        "followed": "share of the movement",
        "distance": "distance to the first's weights",
    }
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), constrained_layout=True)
    for number, name in enumerate(dict.fromkeys(row["variant"] for row in rows)):
        mine, colour = [row for row in rows if row["variant"] == name], f"C{number}"
        for panel, key in zip(axes, panels, strict=True):
            draw(panel, mine, key, "-", colour, name)
        draw(axes[-1], mine, "predicted_distance", ":", colour, f"{name}: explained")
    for panel, title in zip(axes, panels.values(), strict=True):
        panel.set(xlabel="step", title=title)
        panel.legend(frameon=False, fontsize=8)
        panel.grid(alpha=0.3)
    figure.savefig(file, dpi=150)


def draw(panel: Any, rows: Sequence[dict[str, Any]], key: str, style: str, colour: str, label: str) -> None:
    """Draw the mean over seeds as a line, and each seed as a faint one."""
    for row in rows:
        panel.plot(row["steps"], row[key], style, color=colour, alpha=0.25, linewidth=1)
    mean = torch.tensor([row[key] for row in rows]).mean(0)
    panel.plot(rows[0]["steps"], mean, style, color=colour, label=label, linewidth=2)


def main() -> None:
    """Read the command line, run, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of a causal language model")
    parser.add_argument("--data", required=True, help="folder with SST-2's train.tsv and dev.tsv")
    parser.add_argument("--variant", action="append", required=True, help="name=dtype[,option=value...]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=250, help="steps between measurements")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--eps", type=float, default=1e-3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    rows = study(arguments)
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
