"""Labelled records from files and from the Hugging Face hub."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from zolightning.errors import ConfigurationError


@dataclass(frozen=True)
class Record:
    """One row of a data set.

    Attributes:
        fields: Its values by name.
        origin: Where it was read, such as ``train.jsonl:12``.
    """

    fields: dict[str, object]
    origin: str


def flattened(record: Record, name: str) -> Record:
    """Return a record with the fields of one of its fields among its own; without that field, the record itself."""
    inner = record.fields.get(name)
    if not isinstance(inner, Mapping):
        return record
    own = {key: value for key, value in record.fields.items() if key != name}
    return Record({**own, **inner}, record.origin)


def read_file(path: Path, columns: tuple[str, ...] = ()) -> list[Record]:
    """Read every record of a ``.jsonl``, ``.json``, ``.tsv`` or ``.csv`` file, which may be compressed (``.gz``).

    A ``.json`` file holds one record, or one a line. The others with columns begin with a header line, and ``.tsv`` has
    no quoting.

    Args:
        path: the file.
        columns: the names of its columns, where it has no header line; empty where it has one.

    Raises:
        ConfigurationError: If the file is missing, empty, of another kind, not UTF-8, or has a malformed line.
    """
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".tsv": _read_tsv, ".csv": _read_csv}
    packed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if packed else path).suffix
    reader = readers.get(suffix.lower())
    if reader is None:
        raise ConfigurationError(f"{path}: cannot read {suffix!r} files; allowed are {', '.join(readers)}")
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file (looked in {path.parent.resolve()})")
    try:
        # Only a line feed ends a line: text may hold the other characters that Unicode calls line ends.
        newline = "" if reader is _read_csv else "\n"
        with (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig", newline=newline) as file:
            records = list(reader(file, path.name, columns))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text ({error})") from error
    if not records:
        raise ConfigurationError(f"{path}: holds no records")
    return records


def load_hub(path: str, name: str | None, split: str) -> Iterable[Mapping[str, object]]:
    """Open a split of a data set on the Hugging Face hub, downloading it unless it is in the local cache.

    Args:
        path: The repository, which must hold data files (``datasets`` 4 and later run no loading scripts).
        name: The configuration, where the repository has several.
        split: The split's name.

    Raises:
        ConfigurationError: If it can be neither downloaded nor found in the cache.
    """
    import datasets

    try:
        rows: Iterable[Mapping[str, object]] = datasets.load_dataset(path, name, split=split)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot load {_title(path, name, split)} from the Hugging Face hub ({error}); with no network, set "
            f"data_dir to a folder that holds the official files"
        ) from error
    return rows


def read_hub(path: str, name: str | None, split: str) -> list[Record]:
    """Read a split of a data set from the Hugging Face hub, or from its local cache.

    Raises:
        ConfigurationError: If it can be neither downloaded nor found in the cache.
    """
    title = _title(path, name, split)
    return [Record(dict(row), f"{title}:{number}") for number, row in enumerate(load_hub(path, name, split), start=1)]


def _title(path: str, name: str | None, split: str) -> str:
    return f"{path if name is None else f'{path}/{name}'}[{split}]"


def _read_jsonl(file: TextIO, name: str, _columns: tuple[str, ...] = ()) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"{name}:{number}: is not JSON ({error})") from error
        if not isinstance(fields, dict):
            raise ConfigurationError(f"{name}:{number}: expected a JSON object, got {type(fields).__name__}")
        yield Record(fields, f"{name}:{number}")


def _read_json(file: TextIO, name: str, _columns: tuple[str, ...]) -> Iterator[Record]:
    text = file.read()
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        yield from _read_jsonl(io.StringIO(text), name)
        return
    if not isinstance(whole, dict):
        raise ConfigurationError(f"{name}: expected a JSON object, or one a line, got {type(whole).__name__}")
    yield Record(whole, name)


def _read_tsv(file: TextIO, name: str, columns: tuple[str, ...]) -> Iterator[Record]:
    rows = ((number, line.rstrip("\r\n").split("\t")) for number, line in enumerate(file, start=1) if line.strip())
    yield from _tabular(rows, name, columns)


def _read_csv(file: TextIO, name: str, columns: tuple[str, ...]) -> Iterator[Record]:
    reader = csv.reader(file, strict=True)
    try:
        yield from _tabular(((reader.line_num, row) for row in reader if row), name, columns)
    except csv.Error as error:
        raise ConfigurationError(f"{name}:{reader.line_num}: is not CSV ({error})") from error


def _tabular(rows: Iterator[tuple[int, list[str]]], name: str, columns: tuple[str, ...]) -> Iterator[Record]:
    header = list(columns) or next(rows, (0, []))[1]
    if len(set(header)) < len(header):
        raise ConfigurationError(f"{name}:1: the header names a column twice: {', '.join(header)}")
    for number, row in rows:
        if len(row) != len(header):
            raise ConfigurationError(
                f"{name}:{number}: has {len(row)} columns, the header has {len(header)}: {', '.join(header)}"
            )
        yield Record(dict(zip(header, row, strict=True)), f"{name}:{number}")
