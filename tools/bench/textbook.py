"""MeZO as everyone writes it: the yardstick.

Algorithm 1 of Malladi et al., arXiv 2305.17333, in the shape of its released code and of all that followed it: a global
generator seeded anew for each of four passes over the weights, tensor by tensor; three perturbations and an update; the
whole logits; the loss in the dtype of the weights; an `.item()` a step. What the released code does beyond that and
would only slow it further is left out: a branch for weight decay, a copy of the shifted logits, a key/value cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

if TYPE_CHECKING:
    from zolightning.models.batch import OptionBatch
    from zolightning.models.question import Example

# The released code pads a batch to a multiple of this.
_MULTIPLE = 8


class TextbookMeZO:
    """theta <- theta - lr g z, g = (f(theta + eps z) - f(theta - eps z)) / (2 eps), in place.

    Args:
        model: its trainable parameters are optimised.
        lr: learning rate.
        eps: smoothing parameter.
        seed: of the steps' seeds.
    """

    def __init__(self, model: nn.Module, lr: float, eps: float, seed: int = 0) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.lr = lr
        self.eps = eps
        self._seeds = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Take one step and return the loss at theta + eps z []."""
        seed = int(torch.randint(1_000_000_000, (), generator=self._seeds))
        self._perturb(seed, 1)
        plus = closure()
        self._perturb(seed, -2)
        minus = closure()
        self._perturb(seed, 1)
        projected_gradient = ((plus - minus) / (2 * self.eps)).item()
        torch.manual_seed(seed)
        for parameter in self.parameters:
            parameter.data = parameter.data - self.lr * (projected_gradient * _normal_like(parameter))
        return plus

    def _perturb(self, seed: int, scale: int) -> None:
        torch.manual_seed(seed)
        for parameter in self.parameters:
            parameter.data = parameter.data + scale * _normal_like(parameter) * self.eps


def _normal_like(parameter: Tensor) -> Tensor:
    return torch.normal(0.0, 1.0, size=parameter.shape, device=parameter.device, dtype=parameter.dtype)


@dataclass(frozen=True)
class TextbookBatch:
    """Sequences whose logits are all computed, and where the options' tokens are looked up in them.

    Attributes:
        input_ids: token numbers [sequences, length].
        attention_mask: 1 for a token and 0 for padding [sequences, length], or None without padding.
        rows: the sequence that scores each option token [batch, options, tokens].
        positions: the token whose output scores it [batch, options, tokens].
        tokens: the option tokens [batch, options, tokens], 0 where there is none.
        scored: whether there is one [batch, options, tokens].
        answers: the right option of each example [batch].
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    rows: Tensor
    positions: Tensor
    tokens: Tensor
    scored: Tensor
    answers: Tensor

    def loss(self, model: nn.Module) -> Tensor:
        """Return the cross-entropy over the options' mean token log-likelihoods [], in the dtype of the weights."""
        logits = model(input_ids=self.input_ids, attention_mask=self.attention_mask, use_cache=False).logits
        likelihoods = log_softmax(logits, dim=-1)[self.rows, self.positions, self.tokens] * self.scored
        return cross_entropy(likelihoods.sum(-1) / self.scored.sum(-1), self.answers)

    def to(self, device: torch.device) -> TextbookBatch:
        """Return the batch on a device."""
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)})


def same_sequences(batch: OptionBatch) -> TextbookBatch:
    """Return a batch of ours, sequence for sequence: the perturbation and the logits are all that differ."""
    rows, positions = batch.rows[batch.reads], batch.positions[batch.reads]
    return TextbookBatch(batch.input_ids, None, rows, positions, batch.tokens, batch.scored, batch.answers)


def own_sequences(examples: Sequence[Example]) -> TextbookBatch:
    """Return examples with a sequence for each option, padded on the left, as MeZO encodes them.

    Args:
        examples: all with equally many options.
    """
    pairs = [(e, number) for e in examples for number in range(len(e.continuations))]
    sequences = [example.prompt + example.continuations[number] for example, number in pairs]
    length = -(-max(map(len, sequences)) // _MULTIPLE) * _MULTIPLE
    widths = [len(example.continuations[number]) - example.starts[number] for example, number in pairs]
    # Padding on the left puts every option's last token at the end of its sequence.
    positions = torch.arange(length - 1 - max(widths), length - 1).expand(len(pairs), -1)
    scored = positions >= torch.tensor([[length - 1 - width] for width in widths])
    ids = torch.tensor([[0] * (length - len(sequence)) + sequence for sequence in sequences])
    shape = (len(examples), -1, max(widths))
    fields: dict[str, Any] = {
        "rows": torch.arange(len(pairs)).unsqueeze(1).expand_as(positions),
        "positions": positions,
        "tokens": ids[:, -max(widths) :] * scored,
        "scored": scored,
    }
    return TextbookBatch(
        input_ids=ids,
        attention_mask=torch.tensor([[0] * (length - len(sequence)) + [1] * len(sequence) for sequence in sequences]),
        answers=torch.tensor([example.answer for example in examples]),
        **{name: value.reshape(shape) for name, value in fields.items()},
    )
