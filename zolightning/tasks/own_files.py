"""The user's own files and templates, as a recipe names them."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from zolightning.errors import ConfigurationError
from zolightning.tasks.splits import Splits

if TYPE_CHECKING:
    from zolightning.tasks.base import Task


@dataclass(frozen=True)
class OwnFiles:
    """A file with training and development examples, and perhaps one with test examples.

    Attributes:
        train: The first.
        validation: The second, or None: then the first is split three ways.

    Raises:
        ConfigurationError: If both are the same.
    """

    train: Path
    validation: Path | None

    @classmethod
    def found(cls, train: str, validation: str | None, folder: Path | None) -> OwnFiles:
        """Return the files of these names, which begin at a folder, or at the working directory, unless absolute."""
        start = folder or Path()
        other = None if validation is None else start / Path(validation).expanduser()
        return cls(start / Path(train).expanduser(), other)

    def __post_init__(self) -> None:
        """Refuse to test on what was trained on."""
        if self.validation is not None and self.validation.resolve() == self.train.resolve():
            raise ConfigurationError(
                f"validation is the training file, {self.train}; set it to null, and test examples are split off that "
                "file"
            )

    def __str__(self) -> str:
        """Return both names."""
        return " and ".join(str(path) for path in (self.train, self.validation) if path is not None)

    def split(self, task: Task) -> Splits:
        """Read the files as a task's records, and split them as it plans.

        Raises:
            ConfigurationError: If a file cannot be read, or has too few records.
        """
        train = task.read_checked(self.train)
        if self.validation is None:
            rank_zero_info(f"validation is null: train, dev and test examples are all taken from {self.train}")
            return task.plan.split(None, train)
        return task.plan.split(train, task.read_checked(self.validation), label=task.answer)


def field_names(template: str) -> tuple[str, ...]:
    """Return the fields that a prompt has in braces.

    Raises:
        ConfigurationError: If the prompt is no template, or has none.
    """
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise ConfigurationError(
            f"prompt={template!r} is no template ({error}); write a brace that is meant as such twice"
        ) from error
    names = [name or "" for _, name, _, _ in fields]
    if any(form or conversion for _, _, form, conversion in fields):
        raise ConfigurationError(f"prompt={template!r}: braces hold a field's name alone, with no ':' or '!' after it")
    if bad := [name for name in names if not name or name.isdigit() or set(name) & set(".[")]:
        raise ConfigurationError(f"prompt={template!r}: braces must hold a field's name, got {{{bad[0]}}}")
    if not names:
        raise ConfigurationError(f"prompt={template!r} has no field of the records in braces, such as {{review}}")
    return tuple(dict.fromkeys(names))
