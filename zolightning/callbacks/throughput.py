"""How fast a run goes."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from zolightning.finetuner import FineTuner
from zolightning.models.batch import OptionBatch
from zolightning.trainers import logs_now


class Throughput(Callback):
    """Logs steps, forwards and tokens per second of training, validation left out.

    **Logged metrics**, each time the Trainer logs, over the steps since it last did: `perf/steps_per_s`,
    `perf/forwards_per_s` (a forward is one pass over a batch for a loss) and `perf/tokens_per_s` (tokens that went
    through forwards, padding left out).

    Lightning's ThroughputMonitor counts batches, each once, and takes all to be of one size; strategies are compared by
    their forwards, of which a step may take any number.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._paused = 0.0
        self._steps = 0
        self._forwards = 0
        self._tokens = 0
        self._forwards_before = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.perf_counter()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since += time.perf_counter() - self._paused

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, FineTuner)
        self._forwards_before = pl_module.forward_passes

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, FineTuner)
        assert isinstance(batch, OptionBatch)
        forwards = pl_module.forward_passes - self._forwards_before
        self._steps += 1
        self._forwards += forwards
        self._tokens += forwards * batch.num_tokens
        if logs_now(trainer):
            # From log to log, where the numbers are read: between them the device may lag behind the host.
            seconds = time.perf_counter() - self._since
            counts = {"steps": self._steps, "forwards": self._forwards, "tokens": self._tokens}
            rates = {f"perf/{name}_per_s": torch.tensor(count / seconds) for name, count in counts.items()}
            pl_module.log_dict(rates)
            self._begin()

    def _begin(self) -> None:
        self._since = time.perf_counter()
        self._steps, self._forwards, self._tokens = 0, 0, 0
