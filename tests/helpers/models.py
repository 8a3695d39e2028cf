"""Tiny models for the tests, with random weights from fixed seeds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def llama(dtype: torch.dtype = torch.float32, **settings: Any) -> LlamaForCausalLM:
    """Return a Llama in evaluation mode, with random weights from a fixed seed; `settings` are LlamaConfig's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    nn.Module.to(model, dtype)
    nn.Module.eval(model)
    exact_norms(model)
    return model


def exact_norms(model: nn.Module) -> None:
    """Let the norms of a float64 model work in float64; transformers' round to float32, which makes 6e-8 of 1e-16.

    Two ways to the same numbers, as one row and a batch, may sum in another order, and do by processor.
    """
    for module in model.modules():
        name = type(module).__name__
        weight = getattr(module, "weight", None)
        if name.endswith("RMSNorm") and isinstance(weight, Tensor) and weight.dtype == torch.float64:
            module.forward = partial(_rms_norm, module, name.startswith("Gemma"))


def _rms_norm(module: Any, from_one: bool, states: Tensor) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) w, where Gemma's w is kept less one."""
    weight = 1 + module.weight if from_one else module.weight
    eps = module.eps if from_one else module.variance_epsilon
    scaled: Tensor = weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + eps)
    return scaled


def tiny_llama(dtype: torch.dtype = torch.float32, *, tied: bool = True, vocab_size: int = 61) -> LlamaForCausalLM:
    """Return a two-layer Llama with grouped-query attention."""
    return llama(
        dtype,
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )


class Quadratic(nn.Module):
    """f(theta) = |A theta - b|^2 / 2 with a matrix and a vector to find."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(6, 20).to(dtype))
        self.bias = nn.Parameter(torch.randn(6).to(dtype))
        self.register_buffer("inputs", torch.randn(30, 20).to(dtype))
        self.register_buffer("targets", torch.randn(30, 6).to(dtype))

    def forward(self) -> Tensor:
        """Return the mean squared error [] at the parameters as they are."""
        assert isinstance(self.inputs, Tensor)
        assert isinstance(self.targets, Tensor)
        return ((self.inputs @ self.weight.T + self.bias - self.targets) ** 2).mean()


def tokens(vocab_size: int = 61, rows: int = 4, length: int = 9) -> Tensor:
    """Return random token numbers [rows, length]."""
    return torch.randint(0, vocab_size, (rows, length), generator=torch.Generator().manual_seed(5))


def language_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the language-modelling loss [] of a batch, in float32 at least."""
    logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(wide.flatten(0, 1), batch[:, 1:].flatten())
