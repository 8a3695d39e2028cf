"""The bytes of a journal.

    magic (8) | length of the header (4) | header, JSON | CRC-32 of all before it (4) | records of one size

A record is, little-endian: the step (4), the forwards it took (2), its kind (1), the learning rate or the score (8),
the loss and the factors of the directions in the losses' dtype (4 or 8 each), and the CRC-32 of these bytes, begun with
the header's, so that a record of another journal does not fit. A step with one direction in float32 takes 27 bytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from zolightning.errors import ConfigurationError
from zolightning.optim.records import Record

MAGIC = b"zojrnl\r\n"
FORMAT = 1

_LENGTH = struct.Struct("<I")
_CRC = struct.Struct("<I")
_MOST_FORWARDS = 0xFFFF


class Kind(IntEnum):
    """What a record tells of."""

    STEP = 0
    VALIDATION = 1


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Args:
        step: how many steps had been taken.
        score: of the metric that selects.
    """

    step: int
    score: float


class Layout:
    """The records of one journal as bytes.

    Args:
        header: what the journal begins with; it says how many factors a record has, and of which dtype.
    """

    def __init__(self, header: dict[str, Any]) -> None:
        text = json.dumps(header, sort_keys=True).encode()
        start = MAGIC + _LENGTH.pack(len(text)) + text
        self.header = header
        self._seed = zlib.crc32(start)
        self.head = start + _CRC.pack(self._seed)
        self._number: int = header["factors"]
        self._body = struct.Struct(f"<IHBd{1 + self._number}{'d' if header['dtype'] == 'float64' else 'f'}")

    @property
    def size(self) -> int:
        """The bytes of a record."""
        return self._body.size + _CRC.size

    def encode(self, record: Record | Validation) -> bytes:
        """Return a record's bytes."""
        body = self.body(record)
        return body + _CRC.pack(zlib.crc32(body, self._seed))

    def body(self, record: Record | Validation) -> bytes:
        """Return a record's bytes without their check."""
        if isinstance(record, Validation):
            return self._body.pack(record.step, 0, Kind.VALIDATION, record.score, *[0.0] * (1 + self._number))
        forwards = min(record.forwards, _MOST_FORWARDS)
        return self._body.pack(record.step, forwards, Kind.STEP, record.lr, record.loss, *record.factors)

    def decode(self, data: bytes) -> Record | Validation | None:
        """Return what bytes of a record's size tell, or None if they were not written so."""
        body, check = data[: self._body.size], data[self._body.size :]
        if _CRC.pack(zlib.crc32(body, self._seed)) != check:
            return None
        step, forwards, kind, value, loss, *factors = self._body.unpack(body)
        if kind == Kind.VALIDATION:
            return Validation(step, value)
        return Record(step, value, loss, tuple(factors), forwards)


def layout_of(data: bytes, name: str) -> Layout:
    """Return the layout that a journal's first bytes state.

    Args:
        data: the file's bytes, or at least all of its header.
        name: of the file, for errors.

    Raises:
        ConfigurationError: if they are no journal's, or are not as they were written.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise ConfigurationError(f"{name} is no journal, or its first bytes were changed")
    start = len(MAGIC) + _LENGTH.size
    length = _LENGTH.unpack(data[len(MAGIC) : start])[0] if len(data) >= start else 0
    text, check = data[start : start + length], data[start + length : start + length + _CRC.size]
    if len(check) < _CRC.size or _CRC.pack(zlib.crc32(data[: start + length])) != check:
        raise ConfigurationError(f"{name}: the journal's header is not as it was written, so nothing can be read")
    header: dict[str, Any] = json.loads(text)
    if header["format"] != FORMAT:
        raise ConfigurationError(f"{name}: the journal has format {header['format']}, this version reads {FORMAT}")
    return Layout(header)
