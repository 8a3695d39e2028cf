"""The journal in a run's folder: found, held against the run that goes on, and opened by one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from zolightning import runs
from zolightning.durable import replacing
from zolightning.errors import ConfigurationError
from zolightning.journal.reader import Journal, parsed, read
from zolightning.journal.writer import JournalWriter, digests, locked

T = TypeVar("T")


def found(path: Path, trainer: Trainer) -> Journal | None:
    """Return the journal that the run goes on with, the same on all processes, or None if there is none."""
    data = path.read_bytes() if trainer.is_global_zero and path.is_file() else None
    data = trainer.strategy.broadcast(data)
    return None if data is None else parsed(data, path)


def apart(known: Journal, trainer: Trainer, digest: int | None) -> str | None:
    """Return why a journal is not that of the checkpoint that the run goes on from, or None if it is.

    Args:
        known: the journal.
        trainer: of the run.
        digest: what the checkpoint notes of the records of its steps.

    Raises:
        ConfigurationError: if the run is to end before the steps that it has already taken.
    """
    here, steps = trainer.global_step, len(known.steps)
    if steps < here:
        return f"ends at step {steps:,}, before the checkpoint's {here:,}"
    if here and digests(known.layout, known.steps[:here])[-1] != digest:
        return f"tells of other steps than the {here:,} before the checkpoint"
    if 0 < trainer.max_steps < steps and is_last(trainer):
        raise ConfigurationError(
            f"trainer.max_steps={trainer.max_steps:,}: the journal {known.path} has {steps:,} steps already: set "
            "it to as many, or more"
        )
    return None


def give_up(known: Journal, trainer: Trainer, why: str) -> None:
    """Set a journal aside that the run cannot go on with.

    Raises:
        ConfigurationError: on all processes, if another run writes it.
    """
    steps = len(known.steps)

    def set_aside() -> Path:
        file = locked(known.path)
        try:
            if not is_last(trainer):
                _set_checkpoints_aside(known.path.parent, steps, "last")
            return _set_aside(known.path, steps)
        finally:
            os.close(file)

    kept = _by_the_first(trainer, set_aside)
    rank_zero_warn(f"The journal {why}: it is now {kept.name if kept else ''}, and none is kept from here on")


def begun(path: Path, header: dict[str, Any], known: Journal | None, trainer: Trainer) -> JournalWriter | None:
    """Return what writes the journal, on the one process that does.

    Raises:
        ConfigurationError: on all processes, if none can be written.
    """
    if known is None:
        return _by_the_first(trainer, lambda: _anew(path, header, trainer))
    return _by_the_first(trainer, lambda: _continued(known, trainer))


def _by_the_first(trainer: Trainer, action: Callable[[], T]) -> T | None:
    """Return what the first process finds, and None on the others; they all raise what it cannot do."""
    found, failure = None, None
    if trainer.is_global_zero:
        try:
            found = action()
        except (ConfigurationError, OSError) as error:
            failure = str(error)
    failure = trainer.strategy.broadcast(failure)
    if failure is not None:
        raise ConfigurationError(failure)
    return found


def _anew(path: Path, header: dict[str, Any], trainer: Trainer) -> JournalWriter:
    """Begin a journal; what another run has left in the folder is not taken for this one's."""
    steps: int | None = None
    if path.is_file():
        os.close(locked(path))
        steps = len(read(path).steps)
    if trainer.ckpt_path is None:
        _set_checkpoints_aside(path.parent, steps, "last", "best")
    if steps is not None:
        kept = _set_aside(path, steps)
        rank_zero_info(f"The journal of another run in this folder is now {kept.name}")
    return JournalWriter(path, header)


def _continued(known: Journal, trainer: Trainer) -> JournalWriter:
    """Go on with a journal, or with a branch of it, if the run goes on from an earlier step."""
    path = known.path
    if known.lost:
        rank_zero_warn(
            f"{path}: the last {known.lost:,} bytes are no whole record, or were changed, and are cut off; "
            f"{len(known.steps):,} steps are good"
        )
    here, steps = trainer.global_step, len(known.steps)
    if is_last(trainer):
        return JournalWriter(path, known.header, known)
    # Until the branch's own is locked, so that no other run takes up what is left.
    left = locked(path)
    try:
        kept = _aside(path, steps)
        with replacing(kept) as file:
            file.write(path.read_bytes())
        # Before the journal changes, so that a kill never leaves the state of one branch beside another's journal.
        _set_checkpoints_aside(path.parent, steps, "last")
        with replacing(path) as file:
            file.write(known.layout.head + b"".join(map(known.layout.encode, known.until(here))))
        rank_zero_info(f"The run goes on from step {here:,}; the journal of all {steps:,} steps is now {kept.name}")
        return JournalWriter(path, known.header, read(path))
    finally:
        os.close(left)


def is_last(trainer: Trainer) -> bool:
    """Whether a run goes on from where it ended, and not from an earlier state that was chosen."""
    return trainer.ckpt_path is None or runs.is_last(Path(trainer.ckpt_path))


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths are of one file."""
    return one.resolve() == other.resolve()


def _set_checkpoints_aside(run: Path, steps: int | None, *names: str) -> None:
    """Rename checkpoints of a run's folder after the number of the steps of its journal, if it has one."""
    for name in names:
        checkpoint = run / "checkpoints" / f"{name}.ckpt"
        # What stands in for it first: it may be half removed where there is another.
        for left in (checkpoint.with_name(checkpoint.name + runs.OLD), checkpoint):
            if left.exists():
                _set_aside(left, steps)


def _set_aside(path: Path, steps: int | None) -> Path:
    """Rename a run's journal, or a checkpoint, after the number of the journal's steps."""
    return path.rename(_aside(path, steps))


def _aside(path: Path, steps: int | None) -> Path:
    """Return a name that is free."""
    label = "earlier" if steps is None else steps
    aside = path.with_name(f"{path.stem}-{label}{path.suffix}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.stem}-{label}-{number}{path.suffix}")
    return aside
