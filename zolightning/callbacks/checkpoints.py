"""Checkpoints: the best weights by a dev metric, and the last state, both written at the end of each validation.

Two callbacks, because Lightning's `save_last` is written only when a validation sets a new best: after a long plateau a
resumed run would start from far back. Other triggers are left unset: under manual optimisation they would rank new
weights by the previous validation's score. So would the end of an epoch, where Lightning saves by default if it
validates once an epoch: a run may end before the epoch does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from zolightning.callbacks.journal import Journal
from zolightning.callbacks.snapshots import write_whole
from zolightning.errors import ConfigurationError
from zolightning.finetuner import FineTuner
from zolightning.runs import existing
from zolightning.trainers import callbacks_of, is_rehearsal


class BestCheckpoint(ModelCheckpoint):
    """Keeps `checkpoints/best.ckpt`, the weights with the best dev metric.

    Args:
        monitor: the metric that selects, computed on dev, such as `val/loss`; null for the task's main metric.
        mode: whether it is to be large or small; null takes losses to be small, all else to be large.
    """

    def __init__(self, monitor: str | None = None, mode: Literal["max", "min"] | None = None) -> None:
        if mode is None:
            mode = "min" if monitor is not None and monitor.endswith("loss") else "max"
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take up the task's main metric, if no other is to select."""
        if self.monitor is None and isinstance(pl_module, FineTuner):
            self.monitor = f"val/{pl_module.task.main_metric}"
        write_whole(trainer)
        super().setup(trainer, pl_module, stage)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a metric that no validation will log, which would otherwise show at the first one."""
        if isinstance(pl_module, FineTuner) and self.monitor not in pl_module.validation_metrics:
            allowed = ", ".join(pl_module.validation_metrics)
            raise ConfigurationError(f"checkpoint.monitor={self.monitor}: this task's validation logs {allowed}")

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was best; of a run that was moved, where it is now.

        Lightning goes by the folder's name, and would take the next weights, whatever their score, for the best.
        """
        here = existing(Path(self.dirpath or "", Path(state_dict["best_model_path"]).name))
        if here is not None and state_dict["dirpath"] != self.dirpath:
            kept = {"dirpath": self.dirpath, "best_model_path": str(here), "kth_best_model_path": str(here)}
            state_dict = {**state_dict, **kept, "best_k_models": {str(here): state_dict["best_model_score"]}}
        super().load_state_dict(state_dict)


class LastCheckpoint(ModelCheckpoint):
    """Keeps `checkpoints/last.ckpt`, from which `--ckpt_path last` resumes.

    Args:
        snapshot_every: `validation`, or `none` for a run that has a journal: it then resumes from the base weights and
            the journal alone, taking all steps again without their forwards, and its validations with them.
    """

    def __init__(self, snapshot_every: Literal["validation", "none"] = "validation") -> None:
        kept = 1 if snapshot_every == "validation" else 0
        super().__init__(filename="last", save_top_k=kept, save_on_train_epoch_end=False, enable_version_counter=False)
        self.snapshot_every = snapshot_every

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See to it that a snapshot is whole, or the one before it."""
        write_whole(trainer)
        super().setup(trainer, pl_module, stage)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run that could not be resumed.

        Raises:
            ConfigurationError: if there are neither snapshots nor a journal.
        """
        super().on_train_start(trainer, pl_module)
        if self.snapshot_every == "none" and not journal_of(trainer):
            raise ConfigurationError(
                "last_checkpoint.snapshot_every: none leaves a run without a journal nothing to resume from: set it to "
                "validation"
            )

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what an interrupted run has kept; a step may be half done, so nothing more is saved."""
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException) or journal_of(trainer):
            return
        step = trainer.global_step
        if self.best_model_path:
            rank_zero_info(
                f"Interrupted at step {step}; {self.best_model_path}, of step {self._last_global_step_saved}, is kept. "
                "To go on, add --ckpt_path last"
            )
        else:
            rank_zero_info(
                f"Interrupted at step {step}, before the first validation: nothing is kept. Set "
                "trainer.val_check_interval to validate, and save, more often"
            )

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state of a run without validation; any other run validates its last step."""
        if not trainer.enable_validation and self.save_top_k and self.dirpath and not is_rehearsal(trainer):
            trainer.save_checkpoint(Path(self.dirpath) / f"{self.filename}.ckpt")


def journal_of(trainer: Trainer) -> Journal | None:
    """Return what keeps the run's journal, or None if nothing does."""
    return next((keeper for keeper in callbacks_of(trainer, Journal) if keeper.keeps), None)
