"""Models to measure: published shapes with random weights, or what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from zolightning.models.loading import Dtype, load_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Settings = dict[str, Any]


def _llama(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int = 32000, **others: Any
) -> tuple[str, Settings]:
    return "llama", _grouped(hidden, intermediate, layers, heads, kv_heads, vocabulary) | others


def _grouped(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int, theta: float = 1e4
) -> Settings:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }


def _qwen3(hidden: int, intermediate: int, layers: int, heads: int, tied: bool) -> tuple[str, Settings]:
    settings = _grouped(hidden, intermediate, layers, heads, 8, 151936, theta=1e6)
    own = {"head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "tie_word_embeddings": tied}
    return "qwen3", settings | own


def _opt(hidden: int, layers: int, heads: int, **others: Any) -> tuple[str, Settings]:
    own = {
        "vocab_size": 50272,
        "hidden_size": hidden,
        "word_embed_proj_dim": hidden,
        "ffn_dim": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 2048,
    }
    return "opt", own | others


_LLAMA3: Settings = {
    "vocabulary": 128256,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
}

# The numbers of each model's own config.json, as transformers names them: (model type, settings).
SHAPES: dict[str, tuple[str, Settings]] = {
    # Karpathy's stories15M, from llama2.c.
    "llama-15m": _llama(288, 768, 6, 6, 6, max_position_embeddings=256, tie_word_embeddings=True),
    "llama-2-7b": _llama(4096, 11008, 32, 32, 32, max_position_embeddings=4096),
    "llama-2-13b": _llama(5120, 13824, 40, 40, 40, max_position_embeddings=4096),
    "llama-2-70b": _llama(8192, 28672, 80, 64, 8, max_position_embeddings=4096),
    "llama-3-8b": _llama(4096, 14336, 32, 32, 8, **_LLAMA3),
    "llama-3-70b": _llama(8192, 28672, 80, 64, 8, **_LLAMA3),
    "mistral-7b": (
        "mistral",
        _grouped(4096, 14336, 32, 32, 8, 32000) | {"max_position_embeddings": 32768, "sliding_window": 4096},
    ),
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, tied=True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, tied=True),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, tied=True),
    "qwen3-8b": _qwen3(4096, 12288, 36, 32, tied=False),
    "qwen3-14b": _qwen3(5120, 17408, 40, 40, tied=False),
    "opt-125m": _opt(768, 12, 12),
    "opt-350m": _opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-2.7b": _opt(2560, 32, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "opt-13b": _opt(5120, 40, 40),
    "opt-30b": _opt(7168, 48, 56),
    "opt-66b": _opt(9216, 64, 72),
}


def config_of(shape: str) -> PretrainedConfig:
    """Return the configuration of a named shape, or of a folder.

    Raises:
        ValueError: if the shape is neither.
    """
    if shape in SHAPES:
        family, settings = SHAPES[shape]
        config: PretrainedConfig = AutoConfig.for_model(family, **settings)
        return config
    if not (Path(shape) / "config.json").is_file():
        raise ValueError(f"{shape} is no folder with a config.json and none of {', '.join(SHAPES)}")
    config = AutoConfig.from_pretrained(shape)
    return config


def build(shape: str, dtype: Dtype, device: torch.device) -> nn.Module:
    """Return a model in evaluation mode: random weights of a named shape, or what a folder holds.

    A folder with a config.json and no weights is a shape too. Random weights are made on the device in their dtype, so
    that nothing but them need ever fit; buffers such as rotary frequencies are computed in float32 by their modules.

    Args:
        shape: a name in `SHAPES`, or a folder.
        dtype: of the weights.
        device: where they live.

    Raises:
        ValueError: if the shape is neither a name nor a folder.
    """
    if shape not in SHAPES and any(Path(shape).glob("*.safetensors")):
        loaded: nn.Module = load_model(shape, dtype, "sdpa")
        return loaded.to(device).eval()
    config = config_of(shape)
    torch.manual_seed(0)
    with torch.device(device):
        model: nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
    return model.eval()
