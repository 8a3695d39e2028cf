"""Runs that die: real processes on the embedded sample, killed where and when a test says."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal

Where = Literal["anywhere", "in the journal", "in a snapshot", "disk full"]

_SERVER = multiprocessing.get_context("forkserver")
# Imported once: each run is then a fork that begins at once.
_SERVER.set_forkserver_preload(
    [
        "zolightning.cli",
        "zolightning.models.adapters",
        "tests.helpers.drills",
        "accelerate",
        "datasets",
        "peft",
        "torch.utils.tensorboard",
        "torchmetrics",
        "transformers.models.llama.modeling_llama",
        "transformers.models.llama.tokenization_llama",
    ]
)


def start(words: Sequence[str], output: Path, where: Where = "anywhere", number: int = 0) -> ForkServerProcess:
    """Begin `zolightning` with a command line in a process of its own.

    Args:
        words: the command line.
        output: what it says goes there.
        where: where it kills itself, if it does: half-way through a write.
        number: of that write, from 1 on; with `disk full`, the bytes that a file may have.
    """
    process = _SERVER.Process(target=_run, args=(list(words), str(output), where, number))
    process.start()
    return process


def ended(process: ForkServerProcess, within: float = 120.0) -> int:
    """Wait for a process, and return how it ended: minus the signal that killed it, or its exit status."""
    process.join(within)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"a run did not end within {within} s")
    return process.exitcode


def killed(process: ForkServerProcess, after: float, by: signal.Signals = signal.SIGKILL) -> int:
    """Send a process a signal after some seconds, unless it ends before, and return how it ended."""
    process.join(after)
    if process.exitcode is None:
        assert process.pid is not None
        os.kill(process.pid, by)
    return ended(process)


def _run(words: list[str], output: str, where: Where, number: int) -> None:
    import torch

    from zolightning.cli import main

    with open(output, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    if where == "in the journal":
        _die_in_write(number)
    elif where == "in a snapshot":
        _die_in_save(number)
    elif where == "disk full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
    main(words)


def _die_in_write(number: int) -> None:
    """Write half of the bytes of a journal's write, and be gone."""
    original = os.pwrite
    calls = 0

    def pwrite(file: int, data: bytes, place: int) -> int:
        nonlocal calls
        calls += 1
        if calls == number:
            original(file, data[: len(data) // 2], place)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(file, data, place)

    os.pwrite = pwrite  # type: ignore[assignment]


def _die_in_save(number: int) -> None:
    """Write half of a checkpoint's bytes, and be gone."""
    from fsspec.implementations.local import LocalFileOpener  # type: ignore[import-untyped]

    original: Callable[..., Any] = LocalFileOpener.write
    calls = 0

    def write(self: Any, data: bytes, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            original(self, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, data, *arguments)

    LocalFileOpener.write = write


def seconds(action: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.monotonic()
    action()
    return time.monotonic() - start
