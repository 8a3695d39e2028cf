"""The journal of a run: each step's scalars on the disk, from which an interrupted run loses no step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from zolightning.callbacks import journal_file
from zolightning.callbacks.run_header import header_of, identity_of, reason_against, settings_in
from zolightning.errors import ConfigurationError
from zolightning.finetuner import FineTuner
from zolightning.journal.identity import check_same
from zolightning.journal.layout import Validation
from zolightning.journal.reader import Journal as Known
from zolightning.journal.reader import read
from zolightning.journal.replay import apply
from zolightning.journal.scheme import base_of, describe_scheme
from zolightning.journal.writer import JournalWriter
from zolightning.optim.records import Record, Taken
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.resume import announce_changes
from zolightning.runs import JOURNAL, run_folder
from zolightning.trainers import is_rehearsal

_AS_THEY_WERE = (
    "Set these as they were; a run that goes on from a checkpoint can also leave its journal behind, with "
    "journal.enabled: false"
)


class Journal(Callback):
    """Keeps `journal.zoj` in the run's folder: with the base weights it determines the weights after every step.

    Some tens of bytes a step: 20,000 steps are half a megabyte. A run that ended early, however it did, goes on after
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
        self._digest: int | None = None
        self._step = 0
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
        if not self.enabled or trainer.ckpt_path is not None or is_rehearsal(trainer):
            return
        assert isinstance(pl_module, FineTuner)
        self._base = None
        if reason_against(trainer, pl_module) is None:
            self._base = base_of(pl_module.network, adapter=pl_module.scheme.adapter is not None)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._writer is None:
            # Only a run that is recorded can go on with its records.
            return {"base": None, "digest": None}
        self.flush()
        return {"base": self._base, "digest": self._writer.digest(self._step)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._base, self._digest = state_dict["base"], state_dict["digest"]

    # Beginning, or going on

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the journal, or go on after the one that the run's folder has.

        Raises:
            ConfigurationError: if the folder's journal is of another run, none can be written, or groups of
                parameters have learning rates of their own.
        """
        assert isinstance(pl_module, FineTuner)
        # After an exception nobody may have cleared what a run before this one has left.
        self._forget()
        if not self.enabled or is_rehearsal(trainer):
            return
        path, why = run_folder(trainer) / JOURNAL, reason_against(trainer, pl_module)
        if self.source is not None and (why is not None or not journal_file.same_file(self.source, path)):
            raise ConfigurationError(
                f"ckpt_path: there is no checkpoint but {self.source} to go on from, and this run "
                + (f"cannot: {why}" if why is not None else f"would leave its files in {path.parent}")
            )
        if why is not None:
            rank_zero_info(f"No journal is kept: {why}")
            return
        known = None if trainer.ckpt_path is None and self.source is None else journal_file.found(path, trainer)
        if trainer.global_step and (known is None or self._base is None):
            rank_zero_info(f"No journal is kept: there is none of all {trainer.global_step:,} steps so far")
            return
        optimizer = trainer.optimizers[0]
        assert isinstance(optimizer, ZerothOrderOptimizer)
        pl_module.reassert_recipe()
        _check_one_rate(optimizer)
        header = header_of(trainer, pl_module, optimizer, self._base)
        if known is not None:
            check_same(known.header, identity_of(header), path, _AS_THEY_WERE)
            if (why := journal_file.apart(known, trainer, self._digest)) is not None:
                journal_file.give_up(known, trainer, why)
                return
            if self.source is not None:
                announce_changes(settings_in(known.header), settings_in(header))
            self._follow(known, optimizer, trainer)
        self._kept, self._step = True, trainer.global_step
        self._writer = journal_file.begun(path, header, known, trainer)
        self._forwards, self._written_at = pl_module.forward_passes, time.monotonic()

    def _follow(self, known: Known, optimizer: ZerothOrderOptimizer, trainer: Trainer) -> None:
        """Let the steps after the checkpoint be taken again, if it is the last one."""
        last, here = journal_file.is_last(trainer), trainer.global_step
        tail = known.steps[here:] if last else ()
        optimizer.follow(tail)
        self._recalled = {record.step: record for record in tail}
        # A branch has validations of its own.
        self._validated = {validation.step for validation in known.validations if last or validation.step <= here}
        if tail:
            rank_zero_info(
                f"{len(tail):,} steps after step {trainer.global_step:,} are taken again from the journal, without "
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
        scheme = {"scheme": describe_scheme(module.scheme)}
        check_same(journal.header, scheme, self.source, "Set model.scheme as it was")
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
        if self._kept:
            _check_one_rate(optimizer)
        self._step = taken.step + 1
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
        self._writer.append_taken(self._pending)
        self._pending = []
        self._written_at = time.monotonic()

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A journal is never behind a checkpoint."""
        self.flush()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what is pending: of the steps that were done nothing is lost."""
        if self._writer is None:
            return
        try:
            self.flush()
        except (OSError, RuntimeError) as error:
            # A disk that is full, or a device that has failed; what it was that ended the run is told by others.
            rank_zero_warn(f"The last {len(self._pending):,} steps are not in {self._writer.path}: {error}")
        else:
            if isinstance(exception, KeyboardInterrupt | SIGTERMException):
                rank_zero_info(
                    f"Interrupted at step {trainer.global_step:,}: every step is in {self._writer.path}. To go on, add "
                    "--ckpt_path last"
                )
        self._writer.close()
        self._writer = None

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the journal."""
        if self._writer is not None:
            self.flush()
        self._forget()
        self.source = None

    def _forget(self) -> None:
        """Be as before any run."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._kept = None, False
        self._pending = []
        self._recalled.clear()
        self._validated.clear()


def _check_one_rate(optimizer: ZerothOrderOptimizer) -> None:
    if len({group["lr"] for group in optimizer.param_groups}) > 1:
        raise ConfigurationError(
            "a journal has one learning rate a step, and the groups of parameters have several: set journal.enabled "
            "to false, or a scheduler that treats them alike"
        )
