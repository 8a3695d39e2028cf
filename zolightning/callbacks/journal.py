"""The journal of a run: each step's scalars on the disk, from which an interrupted run loses no step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from zolightning.callbacks.run_header import header_of, identity_of, reason_against
from zolightning.errors import ConfigurationError
from zolightning.finetuner import FineTuner
from zolightning.journal.identity import check_same
from zolightning.journal.layout import Validation
from zolightning.journal.reader import Journal as Known
from zolightning.journal.reader import parsed, read
from zolightning.journal.replay import apply
from zolightning.journal.scheme import base_of
from zolightning.journal.writer import JournalWriter
from zolightning.optim.records import Record, Taken
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.runs import JOURNAL, run_folder


class Journal(Callback):
    """Keeps `journal.zoj` in the run's folder: with the base weights it determines the weights after every step.

    Some tens of bytes a step: 20,000 steps are half a megabyte. A run that ended early, however it did, goes on behind
    its last recorded step with `--ckpt_path last`; `tools/replay.py` and `zolightning.journal.load` make the fine-tuned
    model of any step from the base model. First-order and hybrid strategies have none: their steps are no scalars.

    Args:
        enabled: whether to keep one.
        every_steps: steps after which records are written and waited for, at the latest.
        every_seconds: seconds after which they are.

    Attributes:
        source: a journal that stands for a checkpoint: `fit` goes on from it, if it is the one in the run's folder;
            `validate`, `test` and `predict` replay it first.
    """

    def __init__(self, enabled: bool = True, every_steps: int = 100, every_seconds: float = 10.0) -> None:
        if every_steps < 1 or every_seconds < 0:
            raise ConfigurationError(
                f"journal: every_steps must be at least 1 and every_seconds not negative, got {every_steps} and "
                f"{every_seconds}"
            )
        self.enabled = enabled
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.source: Path | None = None
        self._base: dict[str, str] | None = None
        self._kept = False
        self._writer: JournalWriter | None = None
        self._recalled: dict[int, Record] = {}
        self._validated: set[int] = set()
        self._pending: list[tuple[Taken, int]] = []
        self._written_at = 0.0
        self._forwards = 0

    @property
    def keeps(self) -> bool:
        """Whether the run is recorded."""
        return self._kept

    # The base

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the base weights' fingerprint, where the weights are the base's: not in a run with a checkpoint."""
        if not self.enabled or trainer.ckpt_path is not None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, FineTuner)
        self._base = None
        if reason_against(trainer, pl_module) is None:
            self._base = base_of(pl_module.network, adapter=pl_module.scheme.adapter is not None)

    @override
    def state_dict(self) -> dict[str, Any]:
        # Only a run that is recorded can go on with its records.
        return {"base": self._base if self.keeps else None}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._base = state_dict["base"]

    # Beginning, or going on

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the journal, or go on behind the one that the run's folder has.

        Raises:
            ConfigurationError: if the folder's journal is of another run, or none can be written.
        """
        assert isinstance(pl_module, FineTuner)
        if not self.enabled or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if (why := reason_against(trainer, pl_module)) is not None:
            rank_zero_info(f"No journal is kept: {why}")
            return
        path = run_folder(trainer) / JOURNAL
        known = self._known(path, trainer)
        if trainer.global_step and (known is None or self._base is None):
            rank_zero_info(f"No journal is kept: there is none of all {trainer.global_step:,} steps so far")
            return
        optimizer = trainer.optimizers[0]
        assert isinstance(optimizer, ZerothOrderOptimizer)
        header = header_of(trainer, pl_module, optimizer, self._base)
        if known is not None:
            check_same(known.header, identity_of(header), path)
            if len(known.steps) < trainer.global_step:
                self._give_up(known, trainer)
                return
            self._follow(known, optimizer, trainer)
        self._kept = True
        self._writer = self._begun(path, header, known, trainer)
        self._forwards, self._written_at = pl_module.forward_passes, time.monotonic()

    def _known(self, path: Path, trainer: Trainer) -> Known | None:
        """Return the journal that the run goes on with, the same on all processes, or None if it begins."""
        if trainer.ckpt_path is None and self.source is None:
            return None
        data = path.read_bytes() if trainer.is_global_zero and path.is_file() else None
        data = trainer.strategy.broadcast(data)
        return None if data is None else parsed(data, path)

    def _begun(self, path: Path, header: dict[str, Any], known: Known | None, trainer: Trainer) -> JournalWriter | None:
        """Return what writes the journal, on the one process that does.

        Raises:
            ConfigurationError: on all processes, if none can be written.
        """
        writer, failure = None, None
        if trainer.is_global_zero:
            try:
                writer = self._opened(path, header, known, trainer)
            except ConfigurationError as error:
                failure = str(error)
        failure = trainer.strategy.broadcast(failure)
        if failure is not None:
            raise ConfigurationError(failure)
        return writer

    def _give_up(self, known: Known, trainer: Trainer) -> None:
        """Set a journal aside that lacks steps which the checkpoint has."""
        steps = len(known.steps)
        kept = _set_aside(known.path, steps) if trainer.is_global_zero else known.path
        rank_zero_warn(
            f"The journal ends at step {steps:,}, before the checkpoint's {trainer.global_step:,}: it is now "
            f"{kept.name}, and none is kept from here on"
        )

    def _opened(self, path: Path, header: dict[str, Any], known: Known | None, trainer: Trainer) -> JournalWriter:
        if known is None:
            if path.is_file():
                kept = _set_aside(path, len(read(path).steps))
                rank_zero_info(f"The journal of another run in this folder is now {kept.name}")
            return JournalWriter(path, header)
        if known.lost:
            rank_zero_warn(
                f"{path}: the last {known.lost:,} bytes are no whole record, or were changed, and are cut off; "
                f"{len(known.steps):,} steps are good"
            )
        here, steps = trainer.global_step, len(known.steps)
        if steps == here or _is_last(trainer):
            return JournalWriter(path, known.header, known)
        kept = _set_aside(path, steps)
        rank_zero_info(f"The run goes on from step {here:,}; the journal of all {steps:,} steps is now {kept.name}")
        writer = JournalWriter(path, known.header)
        writer.append(known.steps[:here])
        writer.append(validation for validation in known.validations if validation.step <= here)
        return writer

    def _follow(self, known: Known, optimizer: ZerothOrderOptimizer, trainer: Trainer) -> None:
        """Let the steps behind the checkpoint be taken again, if it is the last one."""
        tail = known.steps[trainer.global_step :] if _is_last(trainer) else ()
        optimizer.follow(tail)
        self._recalled = {record.step: record for record in tail}
        self._validated = {validation.step for validation in known.validations}
        if tail:
            rank_zero_info(
                f"{len(tail):,} steps behind step {trainer.global_step:,} are taken again from the journal, without "
                "forwards"
            )

    # In a checkpoint's place

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._replay(pl_module)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._replay(pl_module)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._replay(pl_module)

    def _replay(self, module: LightningModule) -> None:
        """Move the base weights by all steps of the journal that stands for a checkpoint."""
        if self.source is None:
            return
        assert isinstance(module, FineTuner)
        journal = read(self.source)
        apply(module.network, journal, journal.steps, bar=True)
        self.source = None

    # Recording

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the step; write, if it is time."""
        assert isinstance(pl_module, FineTuner)
        optimizer = trainer.optimizers[0]
        if not isinstance(optimizer, ZerothOrderOptimizer) or (taken := optimizer.taken) is None:
            return
        record = self._recalled.pop(taken.step, None)
        if record is not None:
            pl_module.forward_passes += record.forwards
        elif self._writer is not None:
            self._pending.append((taken, pl_module.forward_passes - self._forwards))
            late = time.monotonic() - self._written_at >= self.every_seconds
            if late or len(self._pending) >= self.every_steps:
                self.flush()
        self._forwards = pl_module.forward_passes

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what selects."""
        if self._writer is None or trainer.state.fn != TrainerFn.FITTING:
            return
        selection = self._writer.header["selection"]
        score = None if selection is None else trainer.callback_metrics.get(selection["monitor"])
        if score is not None and trainer.global_step not in self._validated:
            self._validated.add(trainer.global_step)
            self.flush()
            self._writer.append([Validation(trainer.global_step, float(score))])

    def flush(self) -> None:
        """Write what is pending, and wait until it is on the disk; it waits for the device, once."""
        if self._writer is None or not self._pending:
            return
        pending, self._pending = self._pending, []
        self._writer.append_taken(pending)
        self._written_at = time.monotonic()

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A journal is never behind a checkpoint."""
        self.flush()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what is pending: of the steps that were done nothing is lost."""
        if self._writer is not None:
            self.flush()
            if isinstance(exception, KeyboardInterrupt):
                rank_zero_info(
                    f"Interrupted at step {trainer.global_step:,}: every step is in {self._writer.path}. To go on, add "
                    "--ckpt_path last"
                )
            self._close()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the journal."""
        self._close()
        self._kept, self.source = False, None
        self._recalled.clear()
        self._validated.clear()

    def _close(self) -> None:
        if self._writer is not None:
            self.flush()
            self._writer.close()
        self._writer = None


def _is_last(trainer: Trainer) -> bool:
    """Whether a run goes on from where it ended, and not from an earlier state that was chosen."""
    return trainer.ckpt_path is None or Path(trainer.ckpt_path).stem == "last"


def _set_aside(path: Path, steps: int) -> Path:
    """Rename a journal after the number of its steps."""
    aside = path.with_name(f"{path.stem}-{steps}{path.suffix}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.stem}-{steps}-{number}{path.suffix}")
    return path.rename(aside)
