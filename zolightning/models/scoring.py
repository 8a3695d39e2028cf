"""Log-likelihoods of answer options under a causal language model, with logits where they are needed only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from zolightning.errors import ConfigurationError
from zolightning.models.batch import OptionBatch


def option_scores(model: nn.Module, batch: OptionBatch) -> Tensor:
    """Length-normalised log-likelihood of each option given its prompt [batch, options], at least fp32.

    An option that an example does not have scores -inf.

    Raises:
        ConfigurationError: If the model has no output embeddings, or does not call them as a module.
    """
    return mean_log_likelihoods(token_log_likelihoods(model, batch), batch)


def mean_log_likelihoods(likelihoods: Tensor, batch: OptionBatch) -> Tensor:
    """Mean of each option's token log-likelihoods [batch, options] from those [batch, options, tokens]."""
    means = likelihoods.sum(-1) / batch.counts.clamp(min=1)
    return means.masked_fill(~batch.present, float("-inf"))


def token_log_likelihoods(model: nn.Module, batch: OptionBatch) -> Tensor:
    """Log-likelihood of each option token given all before it [batch, options, tokens], at least fp32.

    Where an option has fewer tokens than the longest there is a 0.

    Raises:
        ConfigurationError: If the model has no output embeddings, or does not call them as a module.
    """
    logits = logits_at(model, batch.input_ids, batch.rows, batch.positions)
    # In half precision the rounding of the softmax alone would hide what a small perturbation changes.
    likelihoods = log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    scored = torch.arange(batch.tokens.size(-1), device=batch.tokens.device) < batch.counts.unsqueeze(-1)
    return likelihoods[batch.reads, batch.tokens].masked_fill(~scored, 0.0)


def logits_at(model: nn.Module, input_ids: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Logits [reads, vocabulary] of ``input_ids`` [sequences, length] at (row, position) pairs [reads].

    Raises:
        ConfigurationError: If the model has no output embeddings, or does not call them as a module.
    """
    head: nn.Module | None = cast("Any", model).get_output_embeddings()
    if head is None:
        raise ConfigurationError(
            f"{type(model).__name__} has no output embeddings to read option scores from: choose a model for causal "
            f"language modelling (AutoModelForCausalLM)"
        )
    with _reading(head, rows, positions, length=input_ids.size(1)):
        logits: Tensor = model(input_ids=input_ids, use_cache=False).logits
    if logits.shape[:-1] != (1, rows.numel()):
        raise ConfigurationError(
            f"{type(model).__name__} gave logits of shape {tuple(logits.shape)} where (1, {rows.numel()}, vocabulary) "
            f"was expected: it does not call its output embeddings as a module with one [batch, length, width] input"
        )
    return logits[0]


@contextmanager
def _reading(head: nn.Module, rows: Tensor, positions: Tensor, length: int) -> Iterator[None]:
    """Hand the head only the outputs at the given places, as one sequence [1, reads, width]."""

    def gather(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        # Prompt tuning puts its virtual tokens in front.
        virtual = hidden.size(1) - length
        return (hidden[rows, positions + virtual].unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
