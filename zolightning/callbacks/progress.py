"""The progress bar: one for the whole run, counted in optimizer steps."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from torch import Tensor
from typing_extensions import override

from zolightning.finetuner import FineTuner

_REFRESH_SECONDS = 0.25


class Progress(ProgressBar):
    """Shows loss, projected gradient, main dev metric and steps per second of a run, and the progress of evaluations.

    Numbers are read a few times a second at most: reading one waits for the device. Lightning's RichProgressBar has a
    bar for each epoch and reads its numbers after every batch; a zeroth-order run is one of steps, of which an epoch's
    bar shows neither the number nor the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bars: RichProgress | None = None
        self._fit_task: TaskID | None = None
        self._evaluation_task: TaskID | None = None
        self._shown_at = 0.0
        self._first_step = 0
        self._started = 0.0

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start()
        self._first_step, self._started = trainer.global_step, time.perf_counter()
        if self._bars is not None:
            total = _total_steps(trainer)
            self._fit_task = self._bars.add_task("fit", total=total, completed=trainer.global_step, numbers="")

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        last = trainer.global_step == trainer.max_steps
        if self._bars is None or self._fit_task is None or (now - self._shown_at < _REFRESH_SECONDS and not last):
            return
        self._shown_at = now
        rate = (trainer.global_step - self._first_step) / max(now - self._started, 1e-9)
        main = pl_module.task.main_metric if isinstance(pl_module, FineTuner) else "accuracy"
        numbers = f"{_numbers(trainer.callback_metrics, main)}  {rate:.1f} steps/s"
        self._bars.update(self._fit_task, completed=trainer.global_step, numbers=numbers)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation("dev", trainer.num_val_batches)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._advance_evaluation()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation()

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation("test", trainer.num_test_batches)

    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def _start(self) -> None:
        if self._bars is None and self._enabled and self.trainer.is_global_zero:
            self._bars = RichProgress(
                TextColumn("{task.description:>5}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
            )
            self._bars.start()

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._fit_task = self._evaluation_task = None

    def _start_evaluation(self, name: str, batches: list[int | float]) -> None:
        self._start()
        if self._bars is not None:
            self._evaluation_task = self._bars.add_task(name, total=sum(batches), numbers="")

    def _advance_evaluation(self) -> None:
        if self._bars is not None and self._evaluation_task is not None:
            self._bars.advance(self._evaluation_task)

    def _end_evaluation(self) -> None:
        if self._bars is None or self._evaluation_task is None:
            return
        self._bars.remove_task(self._evaluation_task)
        self._evaluation_task = None
        if self._fit_task is None:
            self._stop()


def _total_steps(trainer: Trainer) -> int | None:
    """Return how many steps the run will take, or None if nothing but its results will tell."""
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        limits.append(int(trainer.max_epochs * trainer.num_training_batches))
    return min(limits, default=None)


def _numbers(metrics: dict[str, Tensor], main: str) -> str:
    """Write what the bar shows of the logged metrics, of which one is a task's main one."""
    shown = (("loss", "train/loss", ".3f"), ("g", "train/projected_grad", "+.2e"), ("dev", f"val/{main}", ".3f"))
    return "  ".join(f"{label} {float(metrics[key]):{form}}" for label, key, form in shown if key in metrics)
