"""Measure an evaluation against scoring one candidate at a time at batch size 1 with all logits, as MeZO does.

    python tools/bench_eval.py --backbone ../shared/models/stories3M --task SST2 --data-dir ../shared/data/SST-2

Every row scores the same test examples in float32, which are those of the official validation split:

- one candidate at a time: a forward for each option of each example, `tools/bench/candidates.py`;
- ours, one example at a time: options share their prompt, logits are computed where an option is scored;
- ours, as they come: the same in batches;
- ours: the same in batches of examples of like length, which is what `validate`, `test` and `fit` do.

Repetitions alternate: each round runs every row once, in order, so that a machine that slows down slows all of them.
Figures are medians over the rounds. Reading and tokenising are not timed, making batches is. Before the first round
both sides score some examples, which warms them up, and must agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import isabstract, signature
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn
from transformers import PreTrainedModel

from bench.candidates import Candidates, scores_of
from bench.terminal import add_machine, described, place, set_up, versions
from zolightning import tasks
from zolightning.evaluation import evaluate
from zolightning.models.loading import load_model, load_tokenizer, max_positions
from zolightning.tasks import Task
from zolightning.tasks.loader import EvaluationLoader

_FIRST, _LAST = "one candidate at a time", "ours"
_TOLERANCE = 1e-4


@dataclass
class Way:
    """One row of the table.

    Attributes:
        name: Of the row.
        examples: How many it scores.
        evaluate: Scores all examples and returns the accuracy.
        forwards: How many forwards that takes.
        tokens: How many tokens they compute, padding included.
        seconds: Of each round.
        accuracy: What the last round found.
    """

    name: str
    examples: int
    evaluate: Callable[[], float]
    forwards: int
    tokens: int
    seconds: list[float] = field(default_factory=list)
    accuracy: float = float("nan")

    @property
    def median(self) -> float:
        """The median of the rounds, in seconds."""
        return statistics.median(self.seconds)


def kinds() -> dict[str, type[Task]]:
    """Return the tasks by name that need nothing but their files and whose metrics include the accuracy."""
    found = {name: getattr(tasks, name) for name in tasks.__all__}
    return {
        name: kind
        for name, kind in found.items()
        if issubclass(kind, Task) and not isabstract(kind) and _needs_nothing(kind) and "accuracy" in kind().metrics()
    }


def _needs_nothing(kind: type[Task]) -> bool:
    return all(argument.default is not argument.empty for argument in signature(kind).parameters.values())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = described(__doc__)
    parser.add_argument("--backbone", default="sample", help="folder or hub id of a causal language model (sample)")
    parser.add_argument("--task", choices=sorted(kinds()), default="SampleReviews", help="(SampleReviews)")
    parser.add_argument("--data-dir", metavar="FOLDER", help="the official files; default: the hub")
    parser.add_argument("--options", nargs="+", metavar="WORD", help="other words for the task's options")
    parser.add_argument("--examples", type=int, help="at most so many; default: the task's number")
    parser.add_argument("--batch", type=int, default=64, help="examples in a batch of ours (64)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (5)")
    add_machine(parser)
    found = parser.parse_args(arguments)
    if found.repeats < 1:
        parser.error("--repeats must be at least 1")
    return found


def make_ways(arguments: argparse.Namespace) -> list[Way]:
    """Load the model and the examples, and see that both sides score alike.

    Raises:
        ValueError: If they do not.
    """
    device = torch.device(arguments.device)
    model = load_model(arguments.backbone, "float32", "sdpa")
    nn.Module.eval(nn.Module.to(model, device))
    single, batched = (connected(arguments, model, size) for size in (1, arguments.batch))
    candidates = Candidates(batched, device)
    check_same(model, batched, candidates, device)

    examples = len(candidates.answers)

    def ours(name: str, task: Task, loader: Callable[[], EvaluationLoader]) -> Way:
        tokens = [batch.input_ids.numel() for batch in loader()]
        accuracy = partial(accuracy_of, task, model, loader, device)
        return Way(name, examples, accuracy, len(tokens), sum(tokens))

    return [
        Way(_FIRST, examples, partial(candidates.accuracy, model), candidates.forwards, candidates.tokens),
        ours("ours, one example at a time", single, single.test_dataloader),
        ours("ours, as they come", batched, batched.predict_dataloader),
        ours(_LAST, batched, batched.test_dataloader),
    ]


def accuracy_of(task: Task, model: nn.Module, loader: Callable[[], EvaluationLoader], device: torch.device) -> float:
    """Evaluate as a run does, and return the accuracy."""
    return evaluate(task, model, loader(), device)["accuracy"]


def connected(arguments: argparse.Namespace, model: PreTrainedModel, size: int) -> Task:
    """Return the task, tokenised for the model, in batches of a size."""
    task = kinds()[arguments.task](
        data_dir=arguments.data_dir,
        options=arguments.options,
        num_train=1,
        num_dev=1,
        num_test=arguments.examples,
        eval_batch_size=size,
    )
    task.connect(load_tokenizer(arguments.backbone), max_positions(model.config), seed=0)
    task.adapt(model)
    return task


def check_same(model: nn.Module, task: Task, candidates: Candidates, device: torch.device) -> None:
    """Check that both sides score a batch alike.

    Raises:
        ValueError: If they do not, so that a comparison of their times would mean nothing.
    """
    batch = next(iter(task.predict_dataloader())).to(device)
    with torch.no_grad():
        ours = task.scores(model, batch)
    for row, options in zip(ours, candidates.sequences, strict=False):
        theirs = scores_of(model, options)
        if not torch.allclose(row[: len(options)], theirs, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise ValueError(f"ours scores {row.tolist()}, one candidate at a time {theirs.tolist()}")


def measure(ways: Sequence[Way], rounds: int, console: Console) -> None:
    """Time every way once a round, with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        shown = bar.add_task("", total=len(ways) * rounds)
        for number in range(rounds):
            for way in ways:
                bar.update(shown, description=f"round {number + 1}: {way.name}")
                start = time.perf_counter()
                way.accuracy = way.evaluate()
                way.seconds.append(time.perf_counter() - start)
                bar.advance(shown)


def table_of(ways: Sequence[Way], title: str) -> Table:
    """Return the table for the terminal."""
    table = Table("", title=title)
    for column in ("seconds", "examples a second", "forwards", "tokens computed", "accuracy", "times faster"):
        table.add_column(column, justify="right")
    for way in ways:
        table.add_row(
            way.name,
            f"{way.median:.2f}",
            f"{way.examples / way.median:,.0f}",
            f"{way.forwards:,}",
            f"{way.tokens:,}",
            f"{way.accuracy:.3f}",
            f"{ways[0].median / way.median:.2f}",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table and the ratio."""
    found = parse(arguments)
    console = set_up(found.threads)
    ways = make_ways(found)
    measure(ways, found.repeats, console)
    first, last = ways[0], ways[-1]
    title = (
        f"{Path(found.backbone).name} on {first.examples:,} examples of {found.task}, float32, "
        f"batches of {found.batch}, {place(found.device)}, {versions()}"
    )
    console.print(table_of(ways, title))
    ratios = [one / other for one, other in zip(first.seconds, last.seconds, strict=True)]
    console.print(
        f"An evaluation is {first.median / last.median:.2f} times faster than {_FIRST} "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)."
    )


if __name__ == "__main__":
    main()
