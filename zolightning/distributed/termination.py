"""Ending a run of several processes after the same step when one of them, or each, is asked to."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed
from typing_extensions import override


class Termination(Callback):
    """Stops all processes of a `fit` after the step, or the batch of a validation, in which any was sent SIGTERM.

    Lightning's own handler sends a broadcast from within the signal: processes that are asked at different moments, as
    by a scheduler that asks all, then wait for each other until their time is over. It also lets the host wait for the
    device once a step, which this does a second time.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what a user has set to be told of the signal, which Lightning's handler is made of later."""
        self._before = signal.getsignal(signal.SIGTERM)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the handler's place; Lightning puts back what was there before its own."""
        self._asked = False
        # Others cannot be told of signals.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._end_together(trainer)

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
        self._end_together(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if callable(self._before):
            self._before(number, frame)

    def _end_together(self, trainer: Trainer) -> None:
        asked = torch.tensor(float(self._asked), device=trainer.strategy.root_device)
        # Lightning's reduction would wait for all at a barrier first.
        distributed.all_reduce(asked)
        if float(asked):
            raise SIGTERMException
