"""Batches of prompts with their options, laid out so that a forward computes nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zolightning.models.question import Example, Question


class Extent(NamedTuple):
    """What one example takes up in a batch, known on the host.

    Attributes:
        lengths: The tokens of each of its sequences, without padding.
        reads: The places where its logits are read.
        gold: The scored tokens of the right option.
        example: The example.
    """

    lengths: tuple[int, ...]
    reads: int
    gold: int
    example: Example


@dataclass(frozen=True)
class OptionBatch:
    """Examples, their options, and where to read the options' logits.

    A sequence is a prompt with one tail. There is then no attention mask: padding is on the right, and a causal model
    never sees, from a real token, what follows it, so the fast causal kernels run and positions are the default ones.

    Or a sequence is a prompt with all of an example's tails, one after the other, so that the prompt is computed once.
    ``segments`` then tells whose token each is: a tail's tokens follow the prompt's and their own, and see no other's.

    A masked language model sees all of a sequence at once, and must be told what is padding.

    Attributes:
        input_ids: Token numbers [sequences, length].
        real: Which tokens are no padding, for a masked language model [sequences, length]; None for a causal one.
        segments: 0 for a prompt's token and k for the k-th tail's [sequences, length]; None where a sequence has one
            tail.
        rows: The sequence of each read [reads].
        positions: The token whose output is read [reads].
        reads: The read that scores each option token [batch, options, tokens], 0 where there is no token.
        tokens: The option tokens [batch, options, tokens], 0 where there is no token.
        choices: The distinct option tokens in ascending order [choices]; a micro-batch keeps its batch's.
        columns: Each option token's place among the choices [batch, options, tokens], 0 where there is no token.
        counts: Tokens of each option [batch, options], 0 where the example has no such option.
        answers: The right option's place among those in the batch [batch].
        extents: What each example takes up, in the order of the batch.
        null: The examples' distinct nulls, where scores are calibrated by them.
        null_of: The number of each example's null [batch], where there are any.
    """

    input_ids: Tensor
    real: Tensor | None
    segments: Tensor | None
    rows: Tensor
    positions: Tensor
    reads: Tensor
    tokens: Tensor
    choices: Tensor
    columns: Tensor
    counts: Tensor
    answers: Tensor
    extents: tuple[Extent, ...]
    null: OptionBatch | None = None
    null_of: Tensor | None = None

    @property
    def num_examples(self) -> int:
        """The examples in the batch."""
        return len(self.extents)

    @property
    def examples(self) -> list[Example]:
        """The examples."""
        return [extent.example for extent in self.extents]

    @property
    def questions(self) -> list[Question]:
        """What the examples were made from.

        Raises:
            RuntimeError: If they were not made from questions.
        """
        known = [example.question for example in self.examples if example.question is not None]
        if len(known) < self.num_examples:
            raise RuntimeError("these examples were made from no questions")
        return known

    @property
    def num_tokens(self) -> int:
        """The tokens that the model reads, without padding."""
        return sum(sum(extent.lengths) for extent in self.extents)

    @property
    def num_gold_tokens(self) -> int:
        """The scored tokens of the right options."""
        return sum(extent.gold for extent in self.extents)

    @property
    def one_read_each(self) -> bool:
        """Whether each example's options are a token each that follows the same text, so that one output scores all."""
        return all(extent.reads == 1 for extent in self.extents)

    @property
    def present(self) -> Tensor:
        """Which options there are [batch, options]."""
        return self.counts > 0

    @property
    def scored(self) -> Tensor:
        """Which option tokens there are [batch, options, tokens]."""
        return torch.arange(self.tokens.size(-1), device=self.tokens.device) < self.counts.unsqueeze(-1)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> OptionBatch:
        """Return the batch on a device."""
        # A copy back to the host that nobody waits for may be read before it has arrived.
        wait_not = non_blocking and torch.device(device).type != "cpu"
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        moved = {name: tensor.to(device, non_blocking=wait_not) for name, tensor in tensors.items()}
        null = None if self.null is None else self.null.to(device, non_blocking)
        return OptionBatch(**(values | moved | {"null": null}))

    def split(self, size: int) -> list[OptionBatch]:
        """Cut into micro-batches of at most ``size`` examples, each without padding that only the others needed.

        Raises:
            ValueError: If ``size`` is below 1.
        """
        if size < 1:
            raise ValueError(f"a micro-batch has at least one example, got {size}")
        return [self.part(first, first + size) for first in range(0, self.num_examples, size)]

    def part(self, first: int, last: int) -> OptionBatch:
        """The examples from the ``first`` on to before the ``last``, without padding that only the others needed.

        Raises:
            ValueError: If there is none.
        """
        extents = self.extents[first:last]
        if not extents:
            raise ValueError(f"there is no example from {first} to before {last}, of {self.num_examples}")
        if len(extents) == self.num_examples:
            return self
        row = sum(len(extent.lengths) for extent in self.extents[:first])
        read = sum(extent.reads for extent in self.extents[:first])
        lengths = [length for extent in extents for length in extent.lengths]
        reads = slice(read, read + sum(extent.reads for extent in extents))
        cut = (slice(row, row + len(lengths)), slice(max(lengths)))
        chosen = slice(first, last)
        return replace(
            self,
            input_ids=self.input_ids[cut],
            real=None if self.real is None else self.real[cut],
            segments=None if self.segments is None else self.segments[cut],
            rows=self.rows[reads] - row,
            positions=self.positions[reads],
            # An absent token's 0 must stay a read of the part; which one does not matter.
            reads=(self.reads[chosen] - read).clamp(min=0),
            tokens=self.tokens[chosen],
            columns=self.columns[chosen],
            counts=self.counts[chosen],
            answers=self.answers[chosen],
            extents=extents,
            null_of=None if self.null_of is None else self.null_of[chosen],
        )


def collate(examples: Sequence[Example], row_limit: int = 0) -> OptionBatch:
    """Lay examples out as one batch on the host.

    Args:
        examples: At least one example.
        row_limit: The longest sequence that may hold a prompt with several tails, where it saves computing a prompt
            twice; see :class:`~zolightning.models.sharing.PromptSharing`. With 0 each tail has a sequence of its own.
    """
    shared = any(len(example.tails) > 1 for example in examples) and all(e.row <= row_limit for e in examples)
    layouts = [_lay_out(example, shared) for example in examples]
    null, null_of = _nulls([example.null for example in examples if example.null is not None], row_limit)
    shape = (
        max(len(layout.tokens) for layout in layouts),
        max(len(tokens) for layout in layouts for tokens in layout.tokens),
    )
    sequences = [sequence for layout in layouts for sequence in layout.sequences]
    segments = [segments for layout in layouts for segments in layout.segments]
    choices = sorted({token for layout in layouts for tokens in layout.tokens for token in tokens})
    column = {token: index for index, token in enumerate(choices)}
    places: dict[tuple[int, int], int] = {}
    reads, extents, row = [], [], 0
    for example, layout in zip(examples, layouts, strict=True):
        known = len(places)
        wanted = [[(row + home, position) for home, position in option] for option in layout.places]
        reads.append([[places.setdefault(place, len(places)) for place in option] for option in wanted])
        row += len(layout.sequences)
        lengths = tuple(map(len, layout.sequences))
        extents.append(Extent(lengths, len(places) - known, len(layout.tokens[example.answer]), example))
    return OptionBatch(
        # Padded with a token that the batch has anyway: no other one's embedding is looked up.
        input_ids=_filled(sequences, sequences[0][0]),
        real=None if examples[0].mask is None else _filled([[1] * len(sequence) for sequence in sequences], 0),
        segments=_filled(segments, 0) if shared else None,
        rows=torch.tensor([row for row, _ in places]),
        positions=torch.tensor([position for _, position in places]),
        reads=_padded(reads, shape),
        tokens=_padded([layout.tokens for layout in layouts], shape),
        choices=torch.tensor(choices),
        columns=_padded([[[column[token] for token in option] for option in lay.tokens] for lay in layouts], shape),
        counts=torch.tensor([(list(map(len, lay.tokens)) + [0] * shape[0])[: shape[0]] for lay in layouts]),
        answers=torch.tensor([example.answer for example in examples]),
        extents=tuple(extents),
        null=null,
        null_of=null_of,
    )


def _nulls(nulls: list[Example], row_limit: int) -> tuple[OptionBatch | None, Tensor | None]:
    """Lay out each of the nulls once, and say which is which example's."""
    if not nulls:
        return None, None
    distinct: list[Example] = []
    numbers = []
    for null in nulls:
        if null not in distinct:
            distinct.append(null)
        numbers.append(distinct.index(null))
    return collate(distinct, row_limit), torch.tensor(numbers)


class _Layout(NamedTuple):
    """One example laid out: its sequences, and for every option's token the (sequence, position) to read."""

    sequences: list[list[int]]
    segments: list[list[int]]
    places: list[list[tuple[int, int]]]
    tokens: list[list[int]]


def _lay_out(example: Example, shared: bool) -> _Layout:
    prompt, tails = example.prompt, example.tails
    # Where the first token of each tail is.
    if shared:
        homes = [(0, first) for first in accumulate(map(len, tails[:-1]), initial=len(prompt))]
        sequences = [prompt + [token for tail in tails for token in tail]]
    else:
        homes = [(index, len(prompt)) for index in range(len(tails))]
        sequences = [prompt + tail for tail in tails]
    places, tokens = [], []
    for continuation, start in zip(example.continuations, example.starts, strict=True):
        read = continuation[:-1]
        row, first = next(home for home, tail in zip(homes, tails, strict=True) if tail[: len(read)] == read)
        # A tail's first token is predicted by the prompt's last, whatever lies between them.
        before = [(row, first + at - 1) if at else (row, example.first_read) for at in range(len(continuation))]
        places.append(before[start:])
        tokens.append(continuation[start:])
    segments = [0] * len(prompt) + [number for number, tail in enumerate(tails, 1) for _ in tail]
    return _Layout(sequences, [segments] if shared else [], places, tokens)


def _filled(rows: list[list[int]], value: int) -> Tensor:
    """Ragged rows as one tensor [rows, length], filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _padded(values: list[list[list[int]]], shape: tuple[int, int]) -> Tensor:
    """Ragged numbers as one tensor [batch, options, tokens], with 0 where there are none."""
    options, width = shape
    blank = [0] * width
    rows = [[(option + blank)[:width] for option in example] for example in values]
    return torch.tensor([(example + [blank] * options)[:options] for example in rows])
