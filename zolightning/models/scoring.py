"""Log-likelihoods of answer options under a causal language model, with logits where they are needed only."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from zolightning.errors import ConfigurationError
from zolightning.models.batch import OptionBatch
from zolightning.models.head import has_rows, only_rows, reading


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


def calibrated(likelihoods: Tensor, null: Tensor) -> Tensor:
    """How much likelier a prompt makes each option than a prompt that tells nothing [batch, options].

    Surface form competition (arXiv 2104.08315): log p(option | prompt) - log p(option | null prompt), both sums over
    the option's tokens, of log-likelihoods [batch, options, tokens].

    Args:
        likelihoods: after the prompts.
        null: after the null prompts.
    """
    return likelihoods.sum(-1) - null.sum(-1)


def token_log_likelihoods(model: nn.Module, batch: OptionBatch) -> Tensor:
    """Log-likelihood of each option token given all before it [batch, options, tokens], at least fp32.

    Where an option has fewer tokens than the longest there is a 0.

    Raises:
        ConfigurationError: If the model has no output embeddings, or does not call them as a module.
    """
    # In half precision the rounding of the softmax alone would hide what a small perturbation changes.
    likelihoods = log_softmax(_wide(logits_at(model, batch)), dim=-1)
    return likelihoods[batch.reads, batch.tokens].masked_fill(~batch.scored, 0.0)


def token_logits(model: nn.Module, batch: OptionBatch) -> Tensor:
    """Logit of each option token [batch, options, tokens], at least fp32; the output head need compute no others.

    Where ``batch.one_read_each`` these are the log-likelihoods up to one number for all options of an example, the
    log-normaliser, which a softmax over the options and an argmax do not see. Where an option has fewer tokens than the
    longest there is a 0.

    Raises:
        ConfigurationError: If the model has no output embeddings, or does not call them as a module.
    """
    logits = _wide(logits_at(model, batch, batch.choices))
    return logits[batch.reads, batch.columns].masked_fill(~batch.scored, 0.0)


def logits_at(model: nn.Module, batch: OptionBatch, choices: Tensor | None = None) -> Tensor:
    """Logits [reads, vocabulary] of a batch where they are read, or [reads, choices] of the tokens [choices] alone.

    Raises:
        ConfigurationError: If the model has no output embeddings, or does not call them as a module.
    """
    head: nn.Module | None = cast("Any", model).get_output_embeddings()
    if head is None:
        raise ConfigurationError(
            f"{type(model).__name__} has no output embeddings to read option scores from: choose a model for causal "
            f"or masked language modelling (AutoModelForCausalLM, AutoModelForMaskedLM)"
        )
    inputs: dict[str, Any] = {"input_ids": batch.input_ids}
    if batch.real is not None:
        inputs |= {"attention_mask": batch.real}
    if batch.segments is not None:
        inputs |= _side_by_side(batch.segments, cast("Any", model).dtype)
    with ExitStack() as stack:
        stack.enter_context(reading(head, batch.rows, batch.positions, length=batch.input_ids.size(1)))
        if choices is not None and has_rows(head, choices.numel()):
            stack.enter_context(only_rows(head, choices))
            choices = None
        if batch.real is None:
            inputs |= {"use_cache": False}
        logits: Tensor = model(**inputs).logits
    reads = batch.rows.numel()
    if logits.shape[:-1] != (1, reads):
        raise ConfigurationError(
            f"{type(model).__name__} gave logits of shape {tuple(logits.shape)} where (1, {reads}, vocabulary) was "
            f"expected: it does not call its output embeddings as a module with one [batch, length, width] input"
        )
    return logits[0] if choices is None else logits[0, :, choices]


def _side_by_side(segments: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """What a model must be told where a prompt's tails stand side by side: who sees whom, and who is where.

    Args:
        segments: The tail of each token [sequences, length], see :class:`~zolightning.models.batch.OptionBatch`.
        dtype: Of the attention scores that the mask [sequences, 1, length, length] is added to.
    """
    length = segments.size(1)
    earlier = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    other, own = segments.unsqueeze(1), segments.unsqueeze(2)
    seen = earlier & ((other == 0) | (other == own))
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
    return {"attention_mask": mask.unsqueeze(1), "position_ids": seen.sum(-1) - 1}


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
