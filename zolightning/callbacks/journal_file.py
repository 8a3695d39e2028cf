"""The journal in a run's folder: found, held against the run that goes on, and opened by one process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from zolightning import runs
from zolightning.durable import replacing
from zolightning.errors import ConfigurationError
from zolightning.journal.reader import Journal, parsed, read
from zolightning.journal.writer import JournalWriter, digests, locked


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
    """Set a journal aside that the run cannot go on with."""
    kept = _set_aside(known.path, len(known.steps)) if trainer.is_global_zero else known.path
    rank_zero_warn(f"The journal {why}: it is now {kept.name}, and none is kept from here on")


def begun(path: Path, header: dict[str, Any], known: Journal | None, trainer: Trainer) -> JournalWriter | None:
    """Return what writes the journal, on the one process that does.

    Raises:
        ConfigurationError: on all processes, if none can be written.
    """
    writer, failure = None, None
    if trainer.is_global_zero:
        try:
            writer = _opened(path, header, known, trainer)
        except (ConfigurationError, OSError) as error:
            failure = str(error)
    failure = trainer.strategy.broadcast(failure)
    if failure is not None:
        raise ConfigurationError(failure)
    return writer


def _opened(path: Path, header: dict[str, Any], known: Journal | None, trainer: Trainer) -> JournalWriter:
    if known is None:
        if path.is_file():
            os.close(locked(path))
            steps = len(read(path).steps)
            _set_last_aside(path.parent, steps)
            kept = _set_aside(path, steps)
            rank_zero_info(f"The journal of another run in this folder is now {kept.name}")
        return JournalWriter(path, header)
    if known.lost:
        rank_zero_warn(
            f"{path}: the last {known.lost:,} bytes are no whole record, or were changed, and are cut off; "
            f"{len(known.steps):,} steps are good"
        )
    here, steps = trainer.global_step, len(known.steps)
    if steps == here or is_last(trainer):
        return JournalWriter(path, known.header, known)
    os.close(locked(path))
    kept = _aside(path, steps)
    with replacing(kept) as file:
        file.write(path.read_bytes())
    # Before the journal changes, so that a kill never leaves the state of the branch that was left beside another's.
    _set_last_aside(path.parent, steps)
    with replacing(path) as file:
        file.write(known.layout.head + b"".join(map(known.layout.encode, known.until(here))))
    rank_zero_info(f"The run goes on from step {here:,}; the journal of all {steps:,} steps is now {kept.name}")
    return JournalWriter(path, known.header, read(path))


def is_last(trainer: Trainer) -> bool:
    """Whether a run goes on from where it ended, and not from an earlier state that was chosen."""
    return trainer.ckpt_path is None or runs.is_last(Path(trainer.ckpt_path))


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths are of one file."""
    return one.resolve() == other.resolve()


def _set_last_aside(run: Path, steps: int) -> None:
    """Rename what a run's folder has as its last checkpoint, after the number of the steps of its journal."""
    last = run / "checkpoints" / "last.ckpt"
    while (left := runs.existing(last)) is not None:
        _set_aside(left, steps)


def _set_aside(path: Path, steps: int) -> Path:
    """Rename a run's journal, or its last checkpoint, after the number of the journal's steps."""
    return path.rename(_aside(path, steps))


def _aside(path: Path, steps: int) -> Path:
    """Return a name that is free."""
    aside = path.with_name(f"{path.stem}-{steps}{path.suffix}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.stem}-{steps}-{number}{path.suffix}")
    return aside
