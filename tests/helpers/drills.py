"""Runs that die: real processes on the embedded sample, killed where and when a test says."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import BinaryIO, Literal
from unittest.mock import patch

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
        _die_in(os, "pwrite", number, _half_of_a_write)
    elif where == "in a snapshot":
        _die_in(torch, "save", number, _half_of_a_save)
    elif where == "at a rename":
        _die_in(os, "replace", number)
    elif where == "before the result":
        _die_in(os, "replace", 1, of=lambda _, target: Path(target).name == RESULT)
    elif where == "disk full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
    main(words)


def _die_in(
    owner: object,
    name: str,
    number: int,
    before: Callable[..., object] = lambda *_: None,
    of: Callable[..., bool] = lambda *_: True,
) -> None:
    """Be gone at a call of a function.

    Args:
        owner: the function's module.
        name: of the function.
        number: of the call, from 1 on.
        before: called first, with the function and its arguments.
        of: of the arguments, which calls count.
    """
    original, counted = getattr(owner, name), itertools.count(1)

    def replaced(*arguments: object) -> object:
        if of(*arguments) and next(counted) == number:
            before(original, *arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    patch.object(owner, name, replaced).start()


def _half_of_a_write(write: Callable[[int, bytes, int], int], file: int, data: bytes, place: int) -> None:
    write(file, data[: len(data) // 2], place)


def _half_of_a_save(save: Callable[[object, io.BytesIO], None], checkpoint: object, file: BinaryIO) -> None:
    whole = io.BytesIO()
    save(checkpoint, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()


def seconds(action: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.monotonic()
    action()
    return time.monotonic() - start
