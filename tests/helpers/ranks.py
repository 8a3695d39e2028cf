"""Running a function in several processes that talk by gloo."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn


def in_ranks(function: Callable[..., None], *arguments: object, ranks: int = 2) -> None:
    """Run a function of a module in so many processes of one group; what one of them raises is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        place = (ranks, Path(folder) / "store", function, arguments)
        spawn(_in_one, place, nprocs=ranks)  # type: ignore[no-untyped-call]


def _in_one(rank: int, ranks: int, store: Path, function: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    try:
        function(*arguments)
    finally:
        distributed.destroy_process_group()
    # PyTorch keeps a mesh behind its group in caches, and with it gloo's threads: one that drops its last tensor as the
    # interpreter ends aborts the process (pytorch/pytorch#179291), which says nothing about what was tested.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
