"""Callbacks: what a run measures, shows and leaves behind."""

from __future__ import annotations

from zolightning.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from zolightning.callbacks.export import Export
from zolightning.callbacks.journal import Journal
from zolightning.callbacks.memory import MemoryProfiler
from zolightning.callbacks.predictions import PredictionWriter
from zolightning.callbacks.progress import Progress
from zolightning.callbacks.scoreboard import Scoreboard
from zolightning.callbacks.throughput import Throughput

__all__ = (
    "BestCheckpoint",
    "Export",
    "Journal",
    "LastCheckpoint",
    "MemoryProfiler",
    "PredictionWriter",
    "Progress",
    "Scoreboard",
    "Throughput",
)
