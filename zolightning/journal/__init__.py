"""A run as a file of scalars: written as it goes, checked, and replayed onto the base weights."""

from __future__ import annotations

from zolightning.journal.reader import Journal, read
from zolightning.journal.replay import load, replay
from zolightning.journal.writer import JournalWriter

__all__ = ("Journal", "JournalWriter", "load", "read", "replay")
