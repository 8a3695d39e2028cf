"""Where a task's official splits come from: a folder of files, or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from zolightning.errors import ConfigurationError
from zolightning.tasks.records import Record, load_hub, read_file, read_hub


@dataclass(frozen=True)
class Source:
    """A data set with an official training and an official validation split.

    Attributes:
        hub: Its repository on the Hugging Face hub.
        config: Its configuration there, where the repository has several.
        train: The training split's name there.
        validation: The validation split's name there.
        rename: Our names for its fields, by theirs.
        train_file: The official training file.
        validation_file: The official validation file; the first there is, where it has had several names.
        labels_suffix: Where the official files keep labels in files of their own, a line each, what is added to the
            other file's stem; empty otherwise.
        columns: The columns of official files without a header line; empty where they have one.
    """

    hub: str
    train_file: str
    validation_file: str | tuple[str, ...]
    config: str | None = None
    train: str = "train"
    validation: str = "validation"
    rename: Mapping[str, str] = field(default_factory=dict)
    labels_suffix: str = ""
    columns: tuple[str, ...] = ()

    @property
    def validation_files(self) -> tuple[str, ...]:
        """The names that the official validation file has had."""
        return (self.validation_file,) if isinstance(self.validation_file, str) else self.validation_file

    def read_folder(self, folder: Path) -> tuple[list[Record] | None, list[Record]]:
        """Read the official files: the training records, or None where there is no such file, and the validation ones.

        Raises:
            ConfigurationError: If there is no validation file, or a file cannot be read.
        """
        train = folder / self.train_file
        paths = [folder / name for name in self.validation_files]
        validation = next((path for path in paths if path.is_file()), None)
        if validation is None:
            raise ConfigurationError(
                f"data_dir={str(folder)!r} must hold {self.train_file} and {' or '.join(self.validation_files)}, or "
                f"the latter alone; it holds {', '.join(sorted(path.name for path in folder.glob('*'))) or 'nothing'}"
            )
        return (self._read(train) if train.is_file() else None), self._read(validation)

    def download(self) -> None:
        """Fetch both splits from the hub, unless they are in the cache.

        Raises:
            ConfigurationError: If a split is neither on the hub nor in the cache.
        """
        for split in (self.train, self.validation):
            load_hub(self.hub, self.config, split)

    def read_hub(self) -> tuple[list[Record], list[Record]]:
        """Download, unless they are in the cache, and read both splits.

        Raises:
            ConfigurationError: If a split is neither on the hub nor in the cache.
        """
        splits = [read_hub(self.hub, self.config, split) for split in (self.train, self.validation)]
        train, validation = ([self._renamed(record) for record in split] for split in splits)
        return train, validation

    def _read(self, path: Path) -> list[Record]:
        records = [self._renamed(record) for record in read_file(path, self.columns)]
        labels = path.with_name(path.stem + self.labels_suffix)
        if not self.labels_suffix or not labels.is_file():
            return records
        lines = labels.read_text(encoding="utf-8").split()
        if len(lines) != len(records):
            raise ConfigurationError(
                f"{labels}: has {len(lines):,} labels, but {path.name} has {len(records):,} records"
            )
        return [
            replace(record, fields={**record.fields, "label": label})
            for record, label in zip(records, lines, strict=True)
        ]

    def _renamed(self, record: Record) -> Record:
        return replace(record, fields={self.rename.get(name, name): value for name, value in record.fields.items()})
