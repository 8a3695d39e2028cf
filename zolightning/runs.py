"""Run folders: `<trainer.default_root_dir>/version_<n>`, and which of them `best` and `last` mean."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zolightning.errors import ConfigurationError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

KEYWORDS = ("best", "last")
JOURNAL = "journal.zoj"
# What torch.distributed.checkpoint leaves in the folder of a checkpoint that is complete.
_SHARDED = ".metadata"


def run_folder(trainer: Trainer) -> Path:
    """Return the folder that a run leaves its files in: its logger's, or the root folder if it has no logger.

    Call it on all processes, since the first tells the others.
    """
    return Path(trainer.log_dir or trainer.default_root_dir)


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


def resolve_checkpoint(name: str, root: Path) -> Path:
    """Return the `best.ckpt` or `last.ckpt` of the newest `fit` under a root, or the file that is named.

    A run that has no last checkpoint yet may have its journal, which stands in for it.

    Args:
        name: `best`, `last`, or a file: a checkpoint or a journal.
        root: where runs are kept.

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
    runs = [path.parent for path in root.glob("version_*/config.yaml")]
    if not runs:
        raise ConfigurationError(f"ckpt_path: no run under {root}; set trainer.default_root_dir to where the run was")
    newest = max(runs, key=_number)
    checkpoint, journal = newest / "checkpoints" / f"{name}.ckpt", newest / JOURNAL
    if not _is_checkpoint(checkpoint) and name == "last" and journal.is_file():
        return journal
    if not _is_checkpoint(checkpoint):
        raise ConfigurationError(
            f"ckpt_path: the newest run, {newest}, has no {name} checkpoint; name the file of another"
            f"{_nearest(runs, name)}"
        )
    return checkpoint


def _is_checkpoint(path: Path) -> bool:
    """Return whether a path is a checkpoint: a file, or the folder into which the processes of a sharded run write."""
    return path.suffix == ".ckpt" and (path.is_file() or (path / _SHARDED).is_file())


def _nearest(runs: Sequence[Path], name: str) -> str:
    """Return the checkpoint of the newest run that has one, as the end of a sentence."""
    files = [run / "checkpoints" / f"{name}.ckpt" for run in sorted(runs, key=_number)]
    return next((f": --ckpt_path {file}" for file in reversed(files) if _is_checkpoint(file)), "")


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
