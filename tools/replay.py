"""Make a fine-tuned model again from its base model and its journal, and write it as a Hugging Face folder.

    python tools/replay.py --base mistralai/Mistral-7B-v0.1 --journal runs/version_0/journal.zoj --out tuned
    python tools/replay.py --base sample --journal runs/version_0/journal.zoj --step best --out best

On the kind of device that the run was made on, the weights are bit-equal to the run's. `--show` tells what a journal
holds and makes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from zolightning.errors import ConfigurationError
from zolightning.journal import Journal, load, read
from zolightning.models.loading import export, load_tokenizer


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", type=Path, required=True, metavar="FILE", help="the run's journal.zoj")
    parser.add_argument("--base", help="hub id or folder of the base model; default: the journal's backbone")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write the model; it must not exist")
    parser.add_argument("--step", default="last", help="after how many steps; best on dev, or last (last)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help=f"where to replay; default: {device}")
    parser.add_argument("--show", action="store_true", help="say what the journal holds, and stop")
    found = parser.parse_args(arguments)
    if not found.step.isdigit() and found.step not in ("best", "last"):
        parser.error(f"--step must be a number, best or last, got {found.step}")
    if not found.show and found.out is None:
        parser.error("--out says where the model is to be written; --show alone needs none")
    if found.out is not None and found.out.exists():
        parser.error(f"--out: {found.out} is there already")
    return found


def shown(journal: Journal) -> Table:
    """Return what a journal holds as a table."""
    header = journal.header
    table = Table("", "", title=str(journal.path), show_header=False)
    table.add_row("base model", f"{header['model']['backbone']}, {header['model']['dtype']}")
    table.add_row("strategy", header["strategy"]["name"])
    table.add_row("scheme", str(header["scheme"]["kind"]))
    table.add_row("weights that train", f"{header['trained']['number']:,}")
    table.add_row("seed", str(header["seed"]))
    table.add_row("steps", f"{len(journal.steps):,}")
    table.add_row("forward passes", f"{sum(record.forwards for record in journal.steps):,}")
    if journal.validations:
        best = journal.best()
        table.add_row("best on dev", f"step {best.step:,}: {header['selection']['monitor']} {best.score:.4f}")
    table.add_row("size", f"{journal.size:,} bytes" + (f", and {journal.lost:,} lost" if journal.lost else ""))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay, and write the model."""
    found, console = parse(arguments), Console()
    try:
        journal = read(found.journal)
        console.print(shown(journal))
        if found.show:
            return
        base = found.base or journal.header["model"]["backbone"]
        model = load(base, journal, int(found.step) if found.step.isdigit() else found.step, found.device, bar=True)
        export(model, load_tokenizer(base, journal.header["model"]["bos"]), found.out)
    except ConfigurationError as error:
        sys.exit(f"replay: error: {error}")
    console.print(f"The fine-tuned model is in {found.out}", soft_wrap=True)


if __name__ == "__main__":
    main()
