"""Names for the parts of a run, told to whoever listens: a memory profiler here, torch.profiler's traces anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import torch

Phase = Literal["load", "probe", "update", "validation"]


class PhaseListener(Protocol):
    """Is told when a phase begins and ends."""

    def enter_phase(self, phase: Phase) -> None:
        """Called as the phase begins."""

    def leave_phase(self, phase: Phase) -> None:
        """Called as the phase ends, after an exception too."""


_listeners: list[PhaseListener] = []


def listen(listener: PhaseListener) -> None:
    """Tell `listener` of every phase from now on; asking twice changes nothing."""
    if listener not in _listeners:
        _listeners.append(listener)


def unlisten(listener: PhaseListener) -> None:
    """Stop telling `listener`."""
    if listener in _listeners:
        _listeners.remove(listener)


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Mark a part of the run."""
    for listener in _listeners:
        listener.enter_phase(name)
    try:
        with torch.profiler.record_function(f"zolightning::{name}"):
            yield
    finally:
        for listener in _listeners:
            listener.leave_phase(name)
