"""What a run achieved: zero-shot and final scores, and what they cost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from zolightning.callbacks.memory import MemoryProfiler
from zolightning.durable import replacing
from zolightning.evaluation import evaluate
from zolightning.finetuner import FineTuner
from zolightning.resume import check_incomplete
from zolightning.runs import RESULT, run_folder
from zolightning.trainers import callbacks_of, is_rehearsal

Scores = dict[str, float]


class Scoreboard(Callback):
    """Scores the model before and after `fit`, prints a table, and writes `result.json` in the run's folder.

    The final scores are those of the weights that were best on dev; `weights` says `last` where none were kept.

    Args:
        test: whether to score the test split too. It never selects anything; leave it off while tuning, and use the
            `test` command at the end.
    """

    def __init__(self, test: bool = False) -> None:
        self.test = test
        self.zero_shot: Scores = {}
        self.final: Scores = {}
        self._seconds_before = 0.0
        self._started = 0.0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        # Weights that were taken up are none to begin with.
        if not self.zero_shot and trainer.ckpt_path is None and not is_rehearsal(trainer):
            self.zero_shot = self._score(pl_module)

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to take up a run that has all its steps, unless its results are missing.

        Raises:
            ConfigurationError: if they are not.
        """
        step = checkpoint["global_step"]
        if check_incomplete(trainer, step):
            rank_zero_info(f"The run had ended at step {step:,} without its results: they are made now")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take away what says that the run is complete: it has steps to do."""
        folder = run_folder(trainer)
        if trainer.is_global_zero and not is_rehearsal(trainer):
            (folder / RESULT).unlink(missing_ok=True)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_rehearsal(trainer):
            return
        assert isinstance(pl_module, FineTuner)
        weights = pl_module.settle()
        self.final = self._score(pl_module)
        # Found by all processes together.
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            self._report(trainer, pl_module, folder, weights)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"zero_shot": self.zero_shot, "seconds": self._seconds()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.zero_shot = state_dict["zero_shot"]
        self._seconds_before = state_dict["seconds"]

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def _score(self, module: LightningModule) -> Scores:
        assert isinstance(module, FineTuner)
        loaders = {"dev": module.task.val_dataloader()}
        if self.test:
            loaders["test"] = module.task.test_dataloader()
        return {
            f"{split} {name}": value
            for split, loader in loaders.items()
            for name, value in evaluate(module.task, module.network, loader, module.device, module.processes).items()
        }

    def _report(self, trainer: Trainer, module: FineTuner, folder: Path, weights: str) -> None:
        profilers = callbacks_of(trainer, MemoryProfiler)
        result: dict[str, Any] = {
            "strategy": type(module.strategy).__name__,
            "backbone": module.backbone,
            "dtype": module.dtype_name,
            "seed": module.run_seed,
            "shots": module.task.shots,
            "processes": trainer.world_size,
            "zero_shot": self.zero_shot,
            "final": self.final,
            "weights": weights,
            "steps": trainer.global_step,
            "forward_passes": module.forward_passes,
            "seconds": round(self._seconds(), 1),
            "peak_memory_gib": profilers[0].peak() if profilers else None,
        }
        with replacing(folder / RESULT) as file:
            file.write(json.dumps(result, indent=2).encode() + b"\n")
        console = Console()
        title = f"{result['strategy']} on {result['backbone']}, {result['dtype']}, seed {result['seed']}"
        console.print(title, soft_wrap=True, style="bold")
        console.print(_table(result))
        console.print(f"Results are in {folder}", soft_wrap=True)
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            console.print(f"See the curves: tensorboard --logdir {trainer.default_root_dir}", soft_wrap=True)


def _table(result: dict[str, Any]) -> Table:
    table = Table()
    # With solved examples in the prompt it is not zero that was shown.
    before = f"{result['shots']}-shot" if result["shots"] else "zero-shot"
    for column in ("", before, "final"):
        table.add_column(column, justify="left" if not column else "right")
    for name, value in result["final"].items():
        first = result["zero_shot"].get(name)
        table.add_row(name, "" if first is None else f"{first:.3f}", f"{value:.3f}")
    table.add_section()
    table.add_row("optimizer steps", "", f"{result['steps']:,}")
    table.add_row("forward passes", "", f"{result['forward_passes']:,}")
    table.add_row("wall-clock", "", f"{result['seconds']:.0f} s")
    if result["peak_memory_gib"] is not None:
        table.add_row("peak memory of a step", "", f"{result['peak_memory_gib']:.3f} GiB")
    return table
