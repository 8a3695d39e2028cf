"""How fast a run goes."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from zolightning.finetuner import FineTuner
from zolightning.models.batch import OptionBatch


class Throughput(Callback):
    """Logs steps, forwards and tokens per second of training, validation left out.

    **Logged metrics**, each time the Trainer logs, over the steps since it last did: `perf/steps_per_s`,
    `perf/forwards_per_s` (a forward is one pass over a batch for a loss) and `perf/tokens_per_s` (tokens that went
    through forwards, padding left out).
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._steps = 0
        self._forwards = 0
        self._tokens = 0
        self._started = 0.0
        self._forwards_before = 0

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, FineTuner)
        self._started = time.perf_counter()
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
        self._seconds += time.perf_counter() - self._started
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            counts = {"steps": self._steps, "forwards": self._forwards, "tokens": self._tokens}
            pl_module.log_dict({f"perf/{name}_per_s": count / self._seconds for name, count in counts.items()})
            self._seconds, self._steps, self._forwards, self._tokens = 0.0, 0, 0, 0
