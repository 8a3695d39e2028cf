"""Leaving a fine-tuned model that the Hugging Face libraries load."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from zolightning.distributed import ShardedStrategy
from zolightning.finetuner import FineTuner
from zolightning.runs import run_folder
from zolightning.trainers import is_rehearsal


class Export(Callback):
    """Writes the weights that were best on dev to `best/` in the run's folder at the end of `fit`.

    `transformers.AutoModelForCausalLM.from_pretrained` loads it with equal logits; of an adapter scheme it holds the
    adapter, which `peft.PeftModel.from_pretrained` loads.

    Args:
        enabled: whether to write it.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.enabled or is_rehearsal(trainer) or not isinstance(pl_module, FineTuner):
            return
        pl_module.settle()
        folder = run_folder(trainer) / "best"
        # Of sharded weights each process has a part.
        if trainer.is_global_zero or isinstance(trainer.strategy, ShardedStrategy):
            pl_module.export(folder)
        rank_zero_info(f"The fine-tuned model is in {folder}")
