"""Writing a journal: appended in batches, on the disk before they count."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from zolightning.errors import ConfigurationError
from zolightning.journal.layout import Layout, Validation
from zolightning.journal.reader import Journal
from zolightning.optim.records import Record, Taken


class JournalWriter:
    """Appends records to a journal; what `append` has returned from survives a crash of the machine.

    One process at a time writes a journal.

    Args:
        path: the file.
        header: what a new journal begins with.
        known: the journal that is there and goes on: what lies behind its last good record is cut off.

    Raises:
        ConfigurationError: if another process writes it, or it cannot be written.
    """

    def __init__(self, path: Path, header: dict[str, Any], known: Journal | None = None) -> None:
        self.path = path
        self._layout = Layout(header) if known is None else known.layout
        self._size = len(self._layout.head) if known is None else known.size
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = _locked(path.parent)
            if known is None:
                _begin(path, self._layout.head, self._folder)
            self._file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(
                f"the journal {path} cannot be written ({error.strerror}): set trainer.default_root_dir to a folder "
                "that can, or journal.enabled to false"
            ) from error
        os.ftruncate(self._file, self._size)

    @property
    def header(self) -> dict[str, Any]:
        """What the journal begins with."""
        return self._layout.header

    def append(self, records: Iterable[Record | Validation]) -> None:
        """Write records and wait until they are on the disk.

        Raises:
            OSError: if they cannot be; the file then ends with the last record before them.
        """
        self._write(b"".join(map(self._layout.encode, records)))

    def append_taken(self, steps: Sequence[tuple[Taken, int]]) -> None:
        """Write steps as they were taken, each with the forwards that it took; waits for the device, once.

        Raises:
            OSError: as of `append`.
        """
        found = torch.stack([torch.cat([taken.loss.reshape(1), taken.factors]) for taken, _ in steps]).tolist()
        self.append(
            Record(taken.step, taken.lr, values[0], tuple(values[1:]), forwards)
            for (taken, forwards), values in zip(steps, found, strict=True)
        )

    def _write(self, data: bytes) -> None:
        try:
            _write_at(self._file, data, self._size)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        """Let others write the journal."""
        os.close(self._file)
        os.close(self._folder)

    def __enter__(self) -> JournalWriter:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def _locked(folder: Path) -> int:
    """Return a folder that no other process has locked.

    Raises:
        ConfigurationError: if one has.
    """
    number = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(number)
        raise ConfigurationError(f"another process writes the journal in {folder}: wait for it, or stop it") from error
    return number


def _begin(path: Path, head: bytes, folder: int) -> None:
    """Make a journal that has its header: it is written aside and renamed, so that there is none or all of it."""
    aside = path.with_name(f".{path.name}")
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        _write_at(file, head, 0)
    finally:
        os.close(file)
    os.replace(aside, path)
    # The name, too, must be on the disk.
    os.fsync(folder)


def _write_at(file: int, data: bytes, place: int) -> None:
    """Write bytes at a place, all of them, and wait until they are on the disk."""
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], place + done)
    os.fsync(file)
