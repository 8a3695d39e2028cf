"""Measure what a step holds above the weights, and how long it takes, on each of several processes.

    torchrun --standalone --nproc_per_node 2 tools/bench_distributed.py --shape llama-15m --batch 16 --length 64

Every strategy takes steps on the same global batch in both layouts: `zo_ddp`, where each process holds the whole model,
and `zo_fsdp`, where each holds some rows of every weight. Memory is the most bytes held in a step above the weights,
with gradients, optimizer state, scratch and what a forward gathers; of the process that holds most.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from rich.table import Table
from torch import Tensor, nn

from bench.contenders import EPS, KEEP_RATIO, LR, Contender, Step
from bench.measure import Bench, Result
from bench.shapes import build
from bench.terminal import add_work, described, place, set_up, versions
from bench.workload import Workload, classification_loss, random_work
from zolightning.closures import BatchLoss
from zolightning.models.sharding import shard
from zolightning.optim.ranks import Ranks
from zolightning.optim.together import train_together
from zolightning.perturbation.shards import local_part
from zolightning.strategies import FOSGD, ZOSGD, FOAdam, SparseMeZO, Strategy, ZOAdam

if TYPE_CHECKING:
    from zolightning.models.batch import OptionBatch

_MIB = 1 << 20


class Classification:
    """What the losses of random prompts are, for a closure."""

    def loss(self, model: nn.Module, batch: OptionBatch) -> Tensor:
        """Return the classification loss [] of a batch."""
        return classification_loss(model, batch)

    def loss_weight(self, batch: OptionBatch) -> float:
        """Return how much a batch counts in a mean of losses."""
        return float(batch.num_examples)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = described(__doc__)
    add_work(parser)
    parser.add_argument("--rounds", type=int, default=5, help="in which each is timed once (5)")
    found = parser.parse_args(arguments)
    if not (dist.is_initialized() or dist.is_torchelastic_launched()):
        parser.error("start it with torchrun, as above: it measures processes that work together")
    return found


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Meet the processes that torchrun has started, if they have not met."""
    met = dist.is_initialized()
    if not met:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=10))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        if not met:
            dist.destroy_process_group()


def strategies() -> dict[str, Strategy]:
    """Return what is measured, by name."""
    return {
        "ZOSGD": ZOSGD(LR, EPS),
        "SparseMeZO": SparseMeZO(LR, EPS, keep_ratio=KEEP_RATIO),
        "ZOAdam": ZOAdam(LR, EPS),
        "FOSGD": FOSGD(LR),
        "FOAdam": FOAdam(LR),
    }


def start(strategy: Strategy, ranks: Ranks, work: Workload) -> Step:
    """Return a step of a strategy, in which each process takes its part of the batch."""
    optimizer = strategy.configure(work.model, seed=0)
    train_together(optimizer, ranks, "data")
    return lambda: strategy.training_step(optimizer, BatchLoss(Classification(), work.model, work.batch, None, ranks))


def measure(found: argparse.Namespace, layout: str, ranks: Ranks, device: torch.device) -> tuple[int, list[Result]]:
    """Return the bytes of weights that this process holds in a layout, and what its steps take."""
    model = build(found.shape, found.dtype, device)
    if layout == "zo_fsdp":
        from torch.distributed.device_mesh import init_device_mesh

        shard(model, init_device_mesh(device.type, (ranks.size,)))
    work = random_work(model, found.batch, found.length, device)
    chosen = [
        Contender(name, partial(start, strategy, ranks), lambda _: 0.0, strategy=name, transient=True)
        for name, strategy in strategies().items()
    ]
    held = sum(local_part(weight).flat.nbytes for weight in model.parameters())
    return held, Bench(work).run(chosen, found.rounds, lambda _: None)


def largest(value: float, device: torch.device) -> float:
    """Return the largest of all processes' values."""
    worst = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return float(worst)


def compared(found: argparse.Namespace, ranks: Ranks, device: torch.device) -> Table:
    """Measure both layouts, and return the table.

    Args:
        found: what was asked for.
        ranks: the processes, all of which call this.
        device: of this process.
    """
    table = Table("layout", "strategy")
    for column in ("MiB of weights", "MiB above", "ms a step"):
        table.add_column(column, justify="right")
    for layout in ("zo_ddp", "zo_fsdp"):
        held, results = measure(found, layout, ranks, device)
        weights = f"{largest(held, device) / _MIB:,.1f}"
        for result in results:
            above, took = largest(result.peak or 0, device), largest(result.median or 0.0, device)
            numbers = (f"{above / _MIB:,.1f}", f"{took:,.1f}") if result.error is None else (result.error, "")
            table.add_row(layout, result.contender.name, weights, *numbers)
        table.add_section()
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    found = parse(arguments)
    console = set_up(found.threads)
    device = torch.device(found.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    with joined(device) as ranks:
        table = compared(found, ranks, device)
    if ranks.rank == 0:
        title = f"{found.shape}, {found.dtype}, {found.batch} x {found.length} tokens"
        console.print(f"{title}, {ranks.size} x ({place(found.device)}), {versions()}", soft_wrap=True)
        console.print(table)


if __name__ == "__main__":
    main()
