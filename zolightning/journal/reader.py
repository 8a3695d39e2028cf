"""Reading a journal: up to its last good record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zolightning.errors import ConfigurationError
from zolightning.journal.layout import Layout, Validation, layout_of
from zolightning.optim.records import Record


@dataclass(frozen=True)
class Journal:
    """A run's header and its records.

    Args:
        path: the file.
        layout: of its bytes.
        steps: the records of its steps; the first is that of step 0, and none is missing.
        validations: what validations found, in order.
        size: the bytes up to the last good record.
        lost: the bytes after it, of a record that was never finished, or that was changed.
    """

    path: Path
    layout: Layout
    steps: tuple[Record, ...]
    validations: tuple[Validation, ...]
    size: int
    lost: int

    @property
    def header(self) -> dict[str, Any]:
        """What the run is: seeds, base weights, optimizer."""
        return self.layout.header

    def up_to(self, step: int | Literal["best", "last"]) -> tuple[Record, ...]:
        """Return the records of the steps before one: of the best validation, all, or so many.

        Raises:
            ConfigurationError: if there are not so many, or none was validated.
        """
        if step == "last":
            return self.steps
        if step == "best":
            step = self.best().step
        if not 0 <= step <= len(self.steps):
            raise ConfigurationError(
                f"{self.path} has {len(self.steps):,} steps: step must be at most that, got {step}"
            )
        return self.steps[:step]

    def until(self, step: int) -> list[Record | Validation]:
        """Return all records of the steps before one, in the order in which they were written."""
        found: list[Record | Validation] = [one for one in self.validations if one.step <= step]
        found += self.steps[:step]
        return sorted(found, key=lambda one: (one.step, isinstance(one, Record)))

    def best(self) -> Validation:
        """Return the validation with the best score; of equals that of the earliest step, as a run keeps it.

        Raises:
            ConfigurationError: if there is none.
        """
        if not self.validations:
            raise ConfigurationError(f"{self.path} tells of no validation: choose a step by its number, or last")
        sign = -1.0 if self.header["selection"]["mode"] == "min" else 1.0

        def rank(found: Validation) -> tuple[float, int]:
            # A score that is not a number is worse than any.
            return -math.inf if math.isnan(found.score) else sign * found.score, -found.step

        return max(self.validations, key=rank)


def follows(record: Record | Validation, steps: int) -> bool:
    """Return whether a record may follow those of so many steps.

    A validation may be of an earlier step: a run that goes on from its journal may validate more often than before.
    """
    return record.step <= steps if isinstance(record, Validation) else record.step == steps


def read(path: str | Path) -> Journal:
    """Read a journal up to its last good record: one that was written whole, of the step after the one before it.

    Raises:
        ConfigurationError: if there is none, or its header is not as it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(f"there is no journal {path}")
    return parsed(path.read_bytes(), path)


def parsed(data: bytes, path: Path) -> Journal:
    """Return the journal of a file's bytes, as `read` does.

    Raises:
        ConfigurationError: if its header is not as it was written.
    """
    layout = layout_of(data, str(path))
    steps: list[Record] = []
    validations: list[Validation] = []
    place = len(layout.head)
    while place + layout.size <= len(data):
        record = layout.decode(data[place : place + layout.size])
        if record is None or not follows(record, len(steps)):
            break
        if isinstance(record, Validation):
            validations.append(record)
        else:
            steps.append(record)
        place += layout.size
    return Journal(path, layout, tuple(steps), tuple(validations), place, len(data) - place)
