"""What the tools that measure do before they begin."""

from __future__ import annotations

import torch
from rich.console import Console

# A file has no width of its own.
_WIDTH = 120


def set_up(threads: int | None) -> Console:
    """Take so many threads of the CPU, or torch's own number, and return where to print."""
    if threads:
        torch.set_num_threads(threads)
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)
