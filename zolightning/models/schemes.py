"""Fine-tuning schemes: which parameters train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scheme = Literal["full", "lora"]


def apply_scheme(model: PreTrainedModel, scheme: Scheme) -> nn.Module:
    """Return the model with the scheme's parameters trainable and all others frozen.

    `full` trains everything. `lora` adds low-rank adapters (arXiv 2106.09685) with ZO-Bench's settings, rank 8 and
    alpha 16 on the query and value projections (peft knows their names in each family), kept in float32.
    """
    if scheme == "full":
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0))
