"""The work that every contender is given: one model and one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.textbook import TextbookBatch, own_sequences, same_sequences
from zolightning.models.batch import OptionBatch, collate
from zolightning.models.loading import load_tokenizer, max_positions
from zolightning.models.question import Example
from zolightning.models.scoring import mean_log_likelihoods, token_log_likelihoods, token_logits
from zolightning.optim.blocks import partition

# The first numbers of a vocabulary are often special tokens.
_SPECIAL = 4


@dataclass(frozen=True)
class Workload:
    """A model and a batch.

    Attributes:
        model: a causal language model.
        batch: as this package lays it out.
        textbook: the same examples as the textbook lays them out.
    """

    model: nn.Module
    batch: OptionBatch
    textbook: TextbookBatch

    @property
    def device(self) -> torch.device:
        """Where the work is done."""
        return self.batch.input_ids.device

    def loss(self) -> Tensor:
        """Return the classification loss []."""
        return classification_loss(self.model, self.batch)

    def textbook_loss(self) -> Tensor:
        """Return the same loss [] from all logits, in the dtype of the weights."""
        return self.textbook.loss(self.model)

    def counts(self) -> Counts:
        """Count the model's weights by who reads them."""
        parameters = list(self.model.parameters())
        head = cast("Any", self.model).get_output_embeddings().weight
        looked_up = {m.weight: m.weight.numel() for m in self.model.modules() if isinstance(m, nn.Embedding)}
        looked_up[head] = head.numel()
        total = sum(parameter.numel() for parameter in parameters)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return Counts(
            total,
            total - sum(looked_up.values()),
            head.numel(),
            parameters[0].element_size(),
            len(partition(self.model, names, "layer")),
        )


@dataclass(frozen=True)
class Counts:
    """Weights by who reads them; a tied weight counts once.

    Attributes:
        total: all weights.
        used: those that a forward reads whole: all but embeddings and the output head.
        head: those of the output head, tied or not.
        size: bytes of a weight.
        blocks: parts that a block-wise step probes one at a time.
    """

    total: int
    used: int
    head: int
    size: int
    blocks: int


def classification_loss(model: nn.Module, batch: OptionBatch) -> Tensor:
    """Return the loss [] of a batch as `Task.loss` computes it."""
    likelihoods = token_logits if batch.one_read_each else token_log_likelihoods
    return cross_entropy(mean_log_likelihoods(likelihoods(model, batch), batch), batch.answers)


def random_work(model: nn.Module, batch: int, length: int, device: torch.device) -> Workload:
    """Return random prompts, all of one length, with the same two options of one token each.

    Args:
        model: on its device.
        batch: prompts.
        length: tokens of each.
        device: the model's.
    """
    vocabulary = cast("Any", model).config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(_SPECIAL, vocabulary, (batch, length), generator=generator).tolist()
    options = [[vocabulary // 2], [vocabulary // 2 + 1]]
    ours = collate([Example(prompt, options, [0, 0], number % 2) for number, prompt in enumerate(prompts)])
    return Workload(model, ours.to(device), same_sequences(ours).to(device))


def sst2_work(
    model: nn.Module, batch: int, device: torch.device, folder: str, tokenizer: str, options: Sequence[str] | None
) -> Workload:
    """Return training rows of SST-2 as they come in a random order, without grouping by length.

    Args:
        model: on its device.
        batch: rows.
        device: the model's.
        folder: holds the official files.
        tokenizer: a folder or hub id.
        options: other words for the options, or None for the task's.

    Raises:
        ValueError: if the model's vocabulary is smaller than the tokenizer's.
    """
    # Behind the command line's own dependencies, which a machine that only measures need not have.
    from zolightning.models.sharing import PromptSharing
    from zolightning.tasks import SST2

    config = cast("Any", model).config
    words = load_tokenizer(tokenizer)
    if len(words) > config.get_text_config().vocab_size:
        raise ValueError(f"the tokenizer {tokenizer} has {len(words):,} tokens, more than the model's vocabulary")
    task = SST2(data_dir=folder, num_train=batch, num_dev=1, num_test=1, options=list(options) if options else None)
    task.connect(words, max_positions(config), seed=0)
    examples = task.prepared.examples["train"]
    ours = collate(examples, PromptSharing(model).row_limit(examples))
    return Workload(model, ours.to(device), own_sequences(examples).to(device))
