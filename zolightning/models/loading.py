"""Loading backbones: language models in Hugging Face format, from the hub, a folder, or this package."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from zolightning.errors import ConfigurationError
from zolightning.perturbation.shards import units_of
from zolightning.sample import MODEL

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16", "float16", "float64"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]

SAMPLE = "sample"
_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def resolve(backbone: str) -> str:
    """Return the hub id or folder that a recipe's `backbone` names; `sample` is the model inside this package.

    Raises:
        ConfigurationError: if it is a folder without a model, or looks like a path and is not there.
    """
    if backbone == SAMPLE:
        return str(MODEL)
    folder = Path(backbone).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or backbone.startswith((".", "~")) or backbone.count("/") > 1:
            raise ConfigurationError(f"backbone: there is no folder {backbone}; give a hub id or an existing folder")
        return backbone
    if (folder / "adapter_config.json").is_file():
        raise ConfigurationError(
            f"backbone: {folder} holds an adapter alone: set backbone to the model that it was trained on, the run's "
            "scheme, and --ckpt_path to its checkpoint"
        )
    if not (folder / "config.json").is_file():
        raise ConfigurationError(f"backbone: {folder} holds no config.json, so no Hugging Face model")
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHT_FILES):
        raise ConfigurationError(f"backbone: {folder} holds no weights ({' or '.join(_WEIGHT_FILES)})")
    return str(folder)


def load_config(backbone: str) -> PretrainedConfig:
    """Load a backbone's configuration.

    Raises:
        ConfigurationError: if it cannot be had, or the model is neither a causal nor a masked language model.
    """
    from transformers import AutoConfig

    place = resolve(backbone)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"backbone: cannot load {backbone}: {error}") from error
    causal, masked = _is_one_of(config, "CAUSAL"), is_masked(config)
    if not causal and not masked:
        raise ConfigurationError(
            f"backbone: {backbone} is {' and '.join(config.architectures or [config.model_type])}, neither a causal "
            "language model such as LlamaForCausalLM or OPTForCausalLM nor a masked one such as RobertaForMaskedLM"
        )
    return config


def is_masked(config: PretrainedConfig) -> bool:
    """Return whether a model fills masks, as RoBERTa does, and does not continue texts."""
    return _is_one_of(config, "MASKED") and not _is_one_of(config, "CAUSAL")


def _is_one_of(config: PretrainedConfig, kind: Literal["CAUSAL", "MASKED"]) -> bool:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind == "CAUSAL" else MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.architectures:
        return bool(set(config.architectures) & set(known.values()))
    return config.model_type in known


def load_tokenizer(backbone: str, bos: str | None = None) -> PreTrainedTokenizerBase:
    """Load a backbone's tokenizer.

    Args:
        backbone: hub id, folder, or `sample`.
        bos: the token that begins every text; None for the tokenizer's own, if it has one.

    Raises:
        ConfigurationError: if it cannot be had, or has no such token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resolve(backbone))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"backbone: cannot load the tokenizer of {backbone}: {error}") from error
    if bos is not None:
        _begin_with(bos, tokenizer)
    return tokenizer


def _begin_with(bos: str, tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers.processors import TemplateProcessing

    fast: Any = tokenizer
    number = tokenizer.get_vocab().get(bos)
    if number is None:
        raise ConfigurationError(f"bos: the tokenizer has no token {bos!r}: name one of its vocabulary, or null")
    if tokenizer.cls_token is not None:
        raise ConfigurationError(
            f"bos: a masked language model's texts begin with {tokenizer.cls_token}: set it to null"
        )
    fast.bos_token = bos
    fast.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])


def load_model(backbone: str, dtype: Dtype, attention: Attention) -> PreTrainedModel:
    """Load a backbone with its weights in `dtype`; buffers such as rotary frequencies stay in float32.

    Args:
        backbone: hub id, folder, or `sample`.
        dtype: of the weights.
        attention: the implementation; sdpa is right nearly always.

    Raises:
        ConfigurationError: if it cannot be had, or some of its weights are missing.
    """
    try:
        loaded: Any = kind_of(load_config(backbone)).from_pretrained(
            resolve(backbone), dtype=getattr(torch, dtype), attn_implementation=attention, output_loading_info=True
        )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigurationError(f"backbone: cannot load {backbone} with attention: {attention}: {error}") from error
    model: PreTrainedModel = loaded[0]
    if missing := sorted(loaded[1]["missing_keys"]):
        raise ConfigurationError(
            f"backbone: the weights of {backbone} lack {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; "
            "they would be random"
        )
    return model


def skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """Return the model of a copy of a configuration, without memory for its weights: to see what it is made of."""
    with torch.device("meta"):
        model: PreTrainedModel = kind_of(config).from_config(deepcopy(config))
    return model


def kind_of(config: PretrainedConfig) -> Any:
    """Return the auto class that makes a model of a configuration."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForMaskedLM if is_masked(config) else AutoModelForCausalLM


def max_positions(config: PretrainedConfig) -> int | None:
    """Return how many tokens the model can read, or None where its configuration sets no limit."""
    text = config.get_text_config()
    # GPT-2 and others of its time have another name for it.
    name = text.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    limit = text.to_dict().get(name)
    if limit and is_masked(config):
        # Positions of RoBERTa's kind begin after the one that stands for padding.
        tables = [table for table in skeleton(config).modules() if isinstance(table, nn.Embedding)]
        places = (table.padding_idx for table in tables if table.num_embeddings == limit)
        limit -= max((place for place in places if place is not None), default=-1) + 1
    return int(limit) if limit else None


def export(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model and its tokenizer as a Hugging Face folder (safetensors); of an adapter, the adapter alone.

    Of a sharded model the first process gathers the weights and writes; all must call.
    """
    from peft import PeftModel
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel | PeftModel)
    state = None
    if units_of(model):
        from zolightning.models.sharding import gathered

        state = gathered(model)
        if not state:
            return
    model.save_pretrained(str(folder), state_dict=state)
    tokenizer.save_pretrained(folder)
