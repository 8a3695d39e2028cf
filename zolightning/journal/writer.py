"""Writing a journal: appended in batches, on the disk before they count."""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from zolightning.durable import replacing
from zolightning.errors import ConfigurationError
from zolightning.journal.layout import Layout, Validation
from zolightning.journal.reader import Journal, follows
from zolightning.optim.records import Record, Taken

log = logging.getLogger(__name__)


class JournalWriter:
    """Appends records to a journal; what `append` has returned from survives a crash of the machine.

    One process at a time writes a journal.

    Args:
        path: the file.
        header: what a new journal begins with.
        known: the journal that is there and goes on: what follows its last good record is cut off.

    Raises:
        ConfigurationError: if another process writes it, it cannot be written, or a new one is there already.
    """

    def __init__(self, path: Path, header: dict[str, Any], known: Journal | None = None) -> None:
        self.path = path
        self._layout = Layout(header) if known is None else known.layout
        self._size = len(self._layout.head) if known is None else known.size
        self._digests = [] if known is None else digests(self._layout, known.steps)
        if known is None and path.exists():
            raise ConfigurationError(f"there is a journal {path} already: move it elsewhere")
        try:
            if known is None:
                with replacing(path) as file:
                    file.write(self._layout.head)
            self._file = locked(path)
        except OSError as error:
            raise ConfigurationError(
                f"the journal {path} cannot be written ({error.strerror}): set trainer.default_root_dir to a folder "
                "that can, or journal.enabled to false"
            ) from error
        if known is not None and os.fstat(self._file).st_size != known.size + known.lost:
            os.close(self._file)
            raise ConfigurationError(f"another process has written the journal {path} since it was read: start again")
        os.ftruncate(self._file, self._size)

    @property
    def header(self) -> dict[str, Any]:
        """What the journal begins with."""
        return self._layout.header

    def digest(self, step: int) -> int:
        """Return a digest of the records of the steps before one, of which there must be as many."""
        return self._digests[step - 1] if step else 0

    def append(self, records: Iterable[Record | Validation]) -> None:
        """Write records and wait until they are on the disk.

        Raises:
            OSError: if they cannot be; the file then ends with the last record before them.
            ValueError: if a record does not follow those before it: nobody could read what comes after it.
        """
        written = list(records)
        steps = len(self._digests)
        for record in written:
            if not follows(record, steps):
                raise ValueError(f"{self.path}: {record} does not follow {steps:,} steps")
            steps += isinstance(record, Record)
        self._write(b"".join(map(self._layout.encode, written)))
        taken = (record for record in written if isinstance(record, Record))
        self._digests += digests(self._layout, taken, self.digest(len(self._digests)))

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

    def __enter__(self) -> JournalWriter:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def digests(layout: Layout, steps: Iterable[Record], start: int = 0) -> list[int]:
    """Return a running digest of steps' records, after each of them."""
    found: list[int] = []
    for record in steps:
        # Without its own check: that of a record with its check is the same for all.
        start = zlib.crc32(layout.body(record), start)
        found.append(start)
    return found


def locked(path: Path) -> int:
    """Return a journal's open file, which no other process may write until it is closed.

    Raises:
        ConfigurationError: if another process has it.
        OSError: if it cannot be opened.
    """
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise _taken(path) from error
    except OSError as error:
        # Some network file systems have no locks.
        log.info("%s is not locked against other processes: %s", path, error.strerror)
    if not (path.exists() and os.path.samestat(os.fstat(file), path.stat())):
        # It was replaced between the two calls.
        os.close(file)
        raise _taken(path)
    return file


def _taken(path: Path) -> ConfigurationError:
    return ConfigurationError(f"another process writes the journal {path}: wait for it, or stop it")


def _write_at(file: int, data: bytes, place: int) -> None:
    """Write bytes at a place, all of them, and wait until they are on the disk."""
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], place + done)
    os.fsync(file)
