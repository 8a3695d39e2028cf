"""Two processes that stay: starting them takes longer than what tests ask of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from tests.distributed import jobs

_T = TypeVar("_T")
_SECONDS = 300


class Pair:
    """Runs functions on two processes at once, each of which Lightning takes for one that a launcher has started.

    Args:
        folder: where they work.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start()

    def run(self, function: Callable[..., _T], *arguments: Any) -> list[_T]:
        """Return what a function that a module holds returns on each process."""
        futures = [pool.submit(function, *arguments) for pool in self._pools]
        # Where one fails the other waits for it.
        done, waiting = wait(futures, timeout=_SECONDS, return_when=FIRST_EXCEPTION)
        if waiting:
            self.close()
            self._start()
        for future in done:
            future.result()
        return [future.result(timeout=0) for future in futures]

    def _start(self) -> None:
        port, context = free_port(), get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(1, context, initializer=_begin, initargs=(rank, port, str(self._folder)))
            for rank in (0, 1)
        ]
        self.run(jobs.join)

    def close(self) -> None:
        """End both, whatever they are at."""
        processes = [process for pool in self._pools for process in pool._processes.values()]
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
            process.join()


def free_port() -> int:
    """Return the number of a port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _begin(rank: int, port: int, folder: str) -> None:
    os.chdir(folder)
    os.environ.update(
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        HF_HOME=f"{folder}/huggingface",
        HF_HUB_OFFLINE="1",
    )
    torch.set_num_threads(1)
