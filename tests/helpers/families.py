"""Tiny models of several families, with weights that tell tokens apart."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from tests.helpers.models import exact_norms

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT_SIZES = {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "mistral": SIZES | {"sliding_window": 4},
    "opt": SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 8},
    "gpt2": GPT_SIZES,
    "gptj": GPT_SIZES | {"rotary_dim": 4},
    "gpt_neox": SIZES,
    "phi": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "gemma": SIZES,
    "gemma2": SIZES | {"sliding_window": 4, "final_logit_softcapping": 0.5, "query_pre_attn_scalar": 4},
    "gemma3_text": SIZES | {"sliding_window": 4, "final_logit_softcapping": 0.5, "query_pre_attn_scalar": 4},
}


# Grouped products of bfloat16 matrices want rows of a multiple of 16 bytes.
MIXTURE = SIZES | {"moe_intermediate_size": 16, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
_EXTRA: dict[str, dict[str, Any]] = {
    "mixtral": MIXTURE | {"sliding_window": None},
    "qwen3_moe": MIXTURE,
}
ENCODER = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
    "pad_token_id": 1,
}
MASKED: dict[str, dict[str, Any]] = {
    "roberta": ENCODER,
    "bert": ENCODER,
    "modernbert": ENCODER
    | {"local_attention": 8, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2},
}
PROBED = (
    "opt",
    "llama",
    "mistral",
    "gpt2",
    "roberta",
    "qwen3",
    "gemma3_text",
    "phi",
    "mixtral",
    "qwen3_moe",
    "gpt_neox",
)


def tiny(family: str, dtype: torch.dtype = torch.float64, **settings: Any) -> nn.Module:
    """Return a model in evaluation mode, with random weights from a fixed seed; `settings` are its configuration's."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(FAMILIES.get(family, SIZES) | settings))
    model: nn.Module = cast("Any", AutoModelForCausalLM).from_config(config)
    model = model.to(dtype).eval()
    with torch.no_grad():
        # Fresh weights predict all tokens alike; these do not.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    exact_norms(model)
    return model


def build(family: str, dtype: torch.dtype) -> nn.Module:
    """Return a tiny model of a family in evaluation mode, with random weights from a fixed seed."""
    return masked(family, dtype) if family in MASKED else tiny(family, dtype, **_EXTRA.get(family, {}))


def masked(family: str, dtype: torch.dtype, **settings: Any) -> nn.Module:
    """Return a masked language model in evaluation mode, as `tiny` returns causal ones."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(MASKED[family] | settings))
    model: nn.Module = cast("Any", AutoModelForMaskedLM).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.to(dtype).eval()
