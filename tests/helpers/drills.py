"""Runs that die: real processes on the embedded sample, killed where and when a test says."""

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal

from zolightning.runs import RESULT

Where = Literal["anywhere", "in the journal", "in a snapshot", "at a rename", "before the result", "disk full"]

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
        number: of that write, or rename, from 1 on; with `disk full`, the bytes that a file may have.
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
    elif where == "at a rename":
        _die_at_rename(lambda calls, _: calls == number)
    elif where == "before the result":
        _die_at_rename(lambda _, target: target.name == RESULT)
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
    import torch

    original = torch.save
    calls = 0

    def save(checkpoint: object, file: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            whole = io.BytesIO()
            original(checkpoint, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        original(checkpoint, file)

    torch.save = save  # type: ignore[assignment]


def _die_at_rename(now: Callable[[int, Path], bool]) -> None:
    """Have a file written beside the one that it is to replace, and be gone; `now` is asked with their number."""
    original = os.replace
    calls = 0

    def replace(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if now(calls, Path(target)):
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, target)

    os.replace = replace  # type: ignore[assignment]


def seconds(action: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.monotonic()
    action()
    return time.monotonic() - start
