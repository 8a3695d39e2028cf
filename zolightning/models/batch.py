"""Batches of prompts with their options, laid out so that a forward computes nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """A prompt and its options as token numbers.

    Attributes:
        prompt: The tokens that every option's sequence begins with.
        continuations: The rest of each option's sequence.
        starts: How many leading tokens of each continuation still belong to the prompt.
        answer: The right option.
        cut: Whether the prompt was too long and lost its left end.
    """

    prompt: list[int]
    continuations: list[list[int]]
    starts: list[int]
    answer: int
    cut: bool = False

    @property
    def length(self) -> int:
        """The tokens of the longest option's sequence."""
        return len(self.prompt) + max(map(len, self.continuations))


class Extent(NamedTuple):
    """What one example takes up in a batch, known on the host.

    Attributes:
        lengths: The tokens of each of its sequences, without padding.
        reads: The places where its logits are read.
        gold: The scored tokens of the right option.
    """

    lengths: tuple[int, ...]
    reads: int
    gold: int


@dataclass(frozen=True)
class OptionBatch:
    """Examples, their options, and where to read the options' logits.

    Padding is on the right and there is no attention mask: a causal model never sees, from a real token, what is
    behind it, so the fast causal kernels run and positions are the default ones.

    Attributes:
        input_ids: Token numbers [sequences, length].
        rows: The sequence of each read [reads].
        positions: The token whose output is read [reads].
        reads: The read that scores each option token [batch, options, tokens], 0 where there is no token.
        tokens: The option tokens [batch, options, tokens], 0 where there is no token.
        counts: Tokens of each option [batch, options], 0 where the example has no such option.
        answers: The right option's place among those in the batch [batch].
        extents: What each example takes up, in the order of the batch.
    """

    input_ids: Tensor
    rows: Tensor
    positions: Tensor
    reads: Tensor
    tokens: Tensor
    counts: Tensor
    answers: Tensor
    extents: tuple[Extent, ...]

    @property
    def num_examples(self) -> int:
        """The examples in the batch."""
        return len(self.extents)

    @property
    def num_tokens(self) -> int:
        """The tokens that the model reads, without padding."""
        return sum(sum(extent.lengths) for extent in self.extents)

    @property
    def num_gold_tokens(self) -> int:
        """The scored tokens of the right options."""
        return sum(extent.gold for extent in self.extents)

    @property
    def present(self) -> Tensor:
        """Which options there are [batch, options]."""
        return self.counts > 0

    def to(self, device: torch.device | str, non_blocking: bool = True) -> OptionBatch:
        """Return the batch on a device."""
        # A copy back to the host that nobody waits for may be read before it has arrived.
        wait_not = non_blocking and torch.device(device).type != "cpu"
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "extents"}
        return replace(self, **{name: tensor.to(device, non_blocking=wait_not) for name, tensor in tensors.items()})

    def split(self, size: int) -> list[OptionBatch]:
        """Cut into micro-batches of at most ``size`` examples, each without padding that only the others needed.

        Raises:
            ValueError: If ``size`` is below 1.
        """
        if size < 1:
            raise ValueError(f"a micro-batch has at least one example, got {size}")
        if size >= self.num_examples:
            return [self]
        pieces, row, read = [], 0, 0
        for first in range(0, self.num_examples, size):
            extents = self.extents[first : first + size]
            lengths = [length for extent in extents for length in extent.lengths]
            reads = sum(extent.reads for extent in extents)
            chosen = slice(first, first + size)
            pieces.append(
                OptionBatch(
                    input_ids=self.input_ids[row : row + len(lengths), : max(lengths)],
                    rows=self.rows[read : read + reads] - row,
                    positions=self.positions[read : read + reads],
                    # An absent token's 0 must stay a read of the piece; which one does not matter.
                    reads=(self.reads[chosen] - read).clamp(min=0),
                    tokens=self.tokens[chosen],
                    counts=self.counts[chosen],
                    answers=self.answers[chosen],
                    extents=extents,
                )
            )
            row, read = row + len(lengths), read + reads
        return pieces


class _Layout(NamedTuple):
    """One example laid out: its sequences, and for every option's token the (sequence, position) to read."""

    sequences: list[list[int]]
    places: list[list[tuple[int, int]]]
    tokens: list[list[int]]


def _lay_out(example: Example, options: Sequence[int]) -> _Layout:
    # An option's last token is only predicted, never read. What remains may begin another option's remainder (always
    # so where options are one token), and a causal model gives both the same outputs: one sequence serves both.
    tails = [example.continuations[option][:-1] for option in options]
    kept: list[list[int]] = []
    for tail in sorted(tails, key=len, reverse=True):
        if not any(longer[: len(tail)] == tail for longer in kept):
            kept.append(tail)
    places, tokens = [], []
    for option, tail in zip(options, tails, strict=True):
        home = next(index for index, longer in enumerate(kept) if longer[: len(tail)] == tail)
        start = example.starts[option]
        scored = example.continuations[option][start:]
        before = len(example.prompt) + start - 1
        places.append([(home, before + index) for index in range(len(scored))])
        tokens.append(scored)
    return _Layout([example.prompt + tail for tail in kept], places, tokens)


def collate(examples: Sequence[Example], pad_id: int, only_answer: bool = False) -> OptionBatch:
    """Lay examples out as one batch on the host.

    Args:
        examples: At least one example.
        pad_id: Any token of the vocabulary, for the places behind a sequence's end.
        only_answer: Leave the wrong options out, as the language-modelling objective needs none; ``answers`` are
            then 0.
    """
    chosen = [[example.answer] if only_answer else range(len(example.continuations)) for example in examples]
    layouts = [_lay_out(example, options) for example, options in zip(examples, chosen, strict=True)]
    shape = (
        max(len(layout.tokens) for layout in layouts),
        max(len(tokens) for layout in layouts for tokens in layout.tokens),
    )
    sequences: list[list[int]] = []
    places: dict[tuple[int, int], int] = {}
    reads, answers, extents = [], [], []
    for example, layout in zip(examples, layouts, strict=True):
        known, row = len(places), len(sequences)
        wanted = [[(row + home, position) for home, position in option] for option in layout.places]
        reads.append([[places.setdefault(place, len(places)) for place in option] for option in wanted])
        sequences += layout.sequences
        answers.append(0 if only_answer else example.answer)
        lengths = tuple(map(len, layout.sequences))
        extents.append(Extent(lengths, reads=len(places) - known, gold=len(layout.tokens[answers[-1]])))
    longest = max(map(len, sequences))
    return OptionBatch(
        input_ids=torch.tensor([sequence + [pad_id] * (longest - len(sequence)) for sequence in sequences]),
        rows=torch.tensor([row for row, _ in places]),
        positions=torch.tensor([position for _, position in places]),
        reads=_padded(reads, shape),
        tokens=_padded([layout.tokens for layout in layouts], shape),
        counts=torch.tensor([(list(map(len, lay.tokens)) + [0] * shape[0])[: shape[0]] for lay in layouts]),
        answers=torch.tensor(answers),
        extents=tuple(extents),
    )


def _padded(values: list[list[list[int]]], shape: tuple[int, int]) -> Tensor:
    """Ragged numbers as one tensor [batch, options, tokens], with 0 where there are none."""
    options, width = shape
    blank = [0] * width
    rows = [[(option + blank)[:width] for option in example] for example in values]
    return torch.tensor([(example + [blank] * options)[:options] for example in rows])
