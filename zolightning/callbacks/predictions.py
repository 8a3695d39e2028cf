"""Writing what a model predicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from zolightning.runs import run_folder


class PredictionWriter(BasePredictionWriter):
    """Writes `predictions.jsonl` in the run's folder at the end of `predict`.

    One line for each test example, in the task's order: prompt, options, their scores, prediction and answer; or, where
    answers are generated, prompt, prediction and the right answers.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    @override
    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        folder = run_folder(trainer)
        everywhere = _gathered(list(predictions), trainer)
        if not trainer.is_global_zero:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for batch in everywhere for row in batch)
        rank_zero_info(f"Predictions are in {folder / 'predictions.jsonl'}")


def _gathered(batches: list[list[Any]], trainer: Trainer) -> list[list[Any]]:
    """Return the rows of each batch from all processes, of which each has a share, in their order."""
    if trainer.world_size == 1:
        return batches
    found: list[list[list[Any]]] = [[]] * trainer.world_size
    dist.all_gather_object(found, batches)
    return [[row for share in shares for row in share] for shares in zip(*found, strict=True)]
