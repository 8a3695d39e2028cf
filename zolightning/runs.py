"""Run folders: `<trainer.default_root_dir>/version_<n>`, and which of them `best` and `last` mean."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zolightning.errors import ConfigurationError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

KEYWORDS = ("best", "last")
JOURNAL = "journal.zoj"
# The last file that a run writes.
RESULT = "result.json"
# What torch.distributed.checkpoint leaves in the folder of a checkpoint that is complete.
_SHARDED = ".metadata"
# Beside the folder of a sharded checkpoint, what had its place before.
OLD = ".old"


def run_folder(trainer: Trainer) -> Path:
    """Return the folder that a run leaves its files in: its logger's, or the root folder if it has no logger.

    Call it on all processes, since the first tells the others.
    """
    return Path(trainer.log_dir or trainer.default_root_dir)


def reported_steps(trainer: Trainer) -> int:
    """Return how many steps the run had when it last came to its results, 0 if it never has.

    Call it on all processes, since the first tells the others.
    """
    result = run_folder(trainer) / RESULT
    return int(trainer.strategy.broadcast(_steps_in(result) if trainer.is_global_zero else 0))


def _steps_in(result: Path) -> int:
    try:
        return int(json.loads(result.read_text())["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        # What is not there, or spoiled, is made anew.
        return 0


def check_writable(root: Path) -> None:
    """Check that runs can be kept under a root, which is made if it is not there.

    Raises:
        ConfigurationError: if they cannot.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"trainer.default_root_dir: nothing can be written to {root} ({error.strerror}): set it to another folder"
        ) from error


def resolve_checkpoint(name: str, root: Path, numbered: bool = True) -> Path:
    """Return the `best.ckpt` or `last.ckpt` of the newest `fit` under a root, or the file that is named.

    A run that has no last checkpoint yet may have its journal, which stands in for it.

    Args:
        name: `best`, `last`, or a file: a checkpoint or a journal.
        root: where runs are kept.
        numbered: whether each has a folder of its own there; else the root is the newest run's, if it has one.

    Raises:
        ConfigurationError: if there is none.
    """
    if name not in KEYWORDS:
        path = Path(name).expanduser()
        if not path.exists():
            raise ConfigurationError(f"ckpt_path: there is no {path}; give a file, or one of {', '.join(KEYWORDS)}")
        if not (_is_checkpoint(path) or (path.is_file() and is_journal(path))):
            raise ConfigurationError(
                f"ckpt_path: {path} is no checkpoint; give a .ckpt file of a run's checkpoints/ folder, its "
                f"{JOURNAL}, or one of {', '.join(KEYWORDS)}"
            )
        return path
    runs = [root] if not numbered and (root / "config.yaml").is_file() else _numbered(root)
    if not runs:
        raise ConfigurationError(f"ckpt_path: no run under {root}; set trainer.default_root_dir to where the run was")
    newest = runs[0]
    kept, journal = _kept(newest, name), newest / JOURNAL
    if kept is None and name == "last" and journal.is_file():
        return journal
    if kept is None:
        raise ConfigurationError(
            f"ckpt_path: the newest run, {newest}, has no {name} checkpoint; name the file of another"
            f"{_nearest(runs, name)}"
        )
    return kept


def _kept(run: Path, name: str) -> Path | None:
    """Return a run's checkpoint of a name, or None if it has none."""
    return existing(run / "checkpoints" / f"{name}.ckpt")


def existing(checkpoint: Path) -> Path | None:
    """Return a checkpoint, or what stands in for it, or None if there is neither.

    A sharded one is a folder, which cannot take another's place at once: the one before it stands in where a process
    has died between the two renames.
    """
    places = (checkpoint, checkpoint.with_name(checkpoint.name + OLD))
    return next((found for found in places if _is_checkpoint(found)), None)


def is_last(checkpoint: Path) -> bool:
    """Return whether a checkpoint is where a run ended, and not an earlier state that was chosen."""
    return checkpoint.name.removesuffix(OLD) == "last.ckpt"


def _is_checkpoint(path: Path) -> bool:
    """Return whether a path is a checkpoint: a file, or the folder into which the processes of a sharded run write."""
    if (path / _SHARDED).is_file():
        return path.suffix in (".ckpt", OLD)
    return path.suffix == ".ckpt" and path.is_file()


def _nearest(runs: Sequence[Path], name: str) -> str:
    """Return the checkpoint of the first run that has one, as the end of a sentence."""
    files = (_kept(run, name) for run in runs)
    return next((f": --ckpt_path {file}" for file in files if file is not None), "")


def _numbered(root: Path) -> list[Path]:
    """Return the folders of the runs under a root, the newest first."""
    return sorted((path.parent for path in root.glob("version_*/config.yaml")), key=_number, reverse=True)


def _number(run: Path) -> int:
    return int(run.name.removeprefix("version_"))


def is_journal(path: Path) -> bool:
    """Return whether what stands for a run's weights is its journal."""
    return path.suffix == Path(JOURNAL).suffix


def version_of(checkpoint: Path, root: Path) -> int | None:
    """Return the number of the run that a checkpoint, or a journal, belongs to: a resumed run goes on in its folder."""
    folder = checkpoint.resolve().parent
    folder = folder if is_journal(checkpoint) else folder.parent
    prefix = "version_"
    if folder.parent != root.resolve() or not folder.name.startswith(prefix):
        return None
    number = folder.name.removeprefix(prefix)
    return int(number) if number.isdigit() else None
