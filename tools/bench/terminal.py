"""What the tools that measure have in common on the command line: flags, and where and on what they print."""

from __future__ import annotations

import argparse
from typing import get_args

import torch
from rich.console import Console

import zolightning
from bench.shapes import SHAPES
from zolightning.models.loading import Dtype

# A file has no width of its own.
_WIDTH = 120


def described(what: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with a tool's docstring, as it stands there."""
    return argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Let the command line say where to measure."""
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu", help="such as cpu, cuda or cuda:1 (%(default)s)")
    parser.add_argument("--threads", type=int, help="of the CPU, a process; default: torch's")


def add_work(parser: argparse.ArgumentParser) -> None:
    """Let the command line say what model and batch to measure, and where."""
    parser.add_argument("--shape", default="llama-15m", help=f"{', '.join(SHAPES)}, or a model's folder (%(default)s)")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="float32", help="of the weights (%(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="examples in the batch (%(default)s)")
    parser.add_argument("--length", type=int, default=64, help="tokens of each random prompt (%(default)s)")
    add_machine(parser)


def set_up(threads: int | None) -> Console:
    """Take so many threads of the CPU, or torch's own number, and return where to print."""
    if threads:
        torch.set_num_threads(threads)
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def place(device: str) -> str:
    """Return what a kind of device is here."""
    return torch.cuda.get_device_name(device) if device != "cpu" else f"CPU, {torch.get_num_threads()} threads"


def versions() -> str:
    """Return what the figures were made with."""
    return f"torch {torch.__version__}, zolightning {zolightning.__version__}"
