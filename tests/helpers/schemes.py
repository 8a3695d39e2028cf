"""Tiny models under every fine-tuning scheme, and what each computes, written without peft."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from tests.helpers.families import tiny
from zolightning.models.schemes import Scheme

SCHEMES: dict[str, Scheme] = {
    "full": Scheme(),
    "lora": Scheme("lora"),
    "prefix": Scheme("prefix"),
    "prompt": Scheme("prompt"),
    "head": Scheme("head"),
    "bias_only": Scheme("bias_only"),
    "one layer": Scheme("full", [1]),
    "biases of one layer": Scheme("bias_only", [0]),
}
VIRTUAL = ("prefix", "prompt")
FAMILIES = ("opt", "llama", "mistral", "gpt2", "qwen3")
# What else a family's configuration needs for a scheme to have something to train.
_BIASES: dict[str, dict[str, Any]] = {"llama": {"attention_bias": True}, "qwen3": {"attention_bias": True}}


def backbone(family: str, scheme: str, dtype: torch.dtype = torch.float32, **settings: Any) -> PreTrainedModel:
    """Return a tiny model of a family with something to train under a scheme, always the same."""
    more = _BIASES.get(family, {}) if "bias" in scheme else {}
    # A setting that OPT does not have, and peft believes.
    more = more | ({"num_key_value_heads": 4} if family == "opt" else {})
    return cast("PreTrainedModel", tiny(family, dtype, **(more | settings)))


def under(scheme: str, family: str, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
    """Return a tiny model of a family under a scheme."""
    return SCHEMES[scheme].apply(backbone(family, scheme, dtype, **settings), seed=3).eval()


def combinations() -> list[tuple[str, str]]:
    """Return each scheme with each family that has what it trains: Mistral can have no biases."""
    pairs = [(scheme, family) for scheme in SCHEMES for family in FAMILIES]
    return [(scheme, family) for scheme, family in pairs if not ("bias" in scheme and family == "mistral")]


@torch.no_grad()
def scatter(model: nn.Module) -> None:
    """Move what trains to random places, so that no adapter does nothing."""
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=draw).to(parameter), alpha=0.3)


class ByHand(nn.Module):
    """Computes a prefix's or a prompt's logits from a backbone without an adapter.

    Args:
        base: the backbone.
        scheme: `prefix` or `prompt`.
        table: the adapter's parameters [tokens, width].
    """

    def __init__(self, base: Any, scheme: str, table: Tensor) -> None:
        super().__init__()
        self.base, self.scheme, self.table = base, scheme, table.detach()

    def forward(self, input_ids: Tensor) -> Any:
        """Return the logits of the text's tokens [1, length, vocabulary]."""
        if self.scheme == "prompt":
            text = self.base.get_input_embeddings()(input_ids)
            logits = self.base(inputs_embeds=torch.cat([self.table.unsqueeze(0), text], 1)).logits
            return SimpleNamespace(logits=logits[:, len(self.table) :])
        text = self.base.config.get_text_config()
        heads, layers = text.to_dict().get("num_key_value_heads", text.num_attention_heads), text.num_hidden_layers
        cache: Any = DynamicCache()
        # [layers, key or value, batch, heads, tokens, width]
        parts = self.table.view(len(self.table), layers, 2, 1, heads, -1).permute(1, 2, 3, 4, 0, 5)
        for layer, (key, value) in enumerate(parts):
            cache.update(key, value, layer)
        return self.base(input_ids=input_ids, past_key_values=cache)


def table_of(model: nn.Module) -> Tensor:
    """Return the only parameter that trains."""
    (table,) = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return table


class Text(nn.Module):
    """A model whose logits of virtual tokens nobody sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, **settings: Any) -> Any:
        """Return the output with the logits of the text's tokens alone."""
        output = self.model(input_ids=input_ids, **settings)
        output.logits = output.logits[:, output.logits.size(1) - input_ids.size(1) :]
        return output
