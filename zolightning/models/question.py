"""Prompts with their options: as text, and as token numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property


@dataclass(frozen=True)
class Question:
    """A prompt and its options as text.

    Attributes:
        prompt: What the model is given.
        options: What may follow, each with its leading space where it needs one.
        answer: The right option.
        origin: Where it was read, for errors.
        fields: The record that it was made from.
        reserved: The tokens that an answer may take, where a model is to write it; no less than the options.
    """

    prompt: str
    options: tuple[str, ...]
    answer: int
    origin: str
    fields: Mapping[str, object] = field(default_factory=dict)
    reserved: int = 0


@dataclass(frozen=True)
class Example:
    """A prompt and its options as token numbers.

    Attributes:
        prompt: The tokens that every option's sequence begins with.
        continuations: The rest of each option's sequence.
        starts: How many leading tokens of each continuation still belong to the prompt.
        answer: The right option.
        cut: Whether the prompt was too long and lost its left end.
        question: What it was made from.
        mask: For a masked language model, the place in the prompt that the options, of a token each, may fill.
        null: The same options after a prompt that tells nothing of the record, where scores are calibrated by it.
    """

    prompt: list[int]
    continuations: list[list[int]]
    starts: list[int]
    answer: int
    cut: bool = False
    question: Question | None = field(default=None, compare=False)
    mask: int | None = None
    null: Example | None = field(default=None, compare=False)

    @property
    def length(self) -> int:
        """The tokens of the longest option's sequence."""
        return len(self.prompt) + max(map(len, self.continuations))

    @property
    def first_read(self) -> int:
        """The place in the prompt whose output scores an option's first token, where the prompt has none of it."""
        return len(self.prompt) - 1 if self.mask is None else self.mask

    @property
    def asked(self) -> list[int]:
        """The tokens before the first option's own: what a model is given to write an answer to."""
        return self.prompt + self.continuations[0][: self.starts[0]]

    @property
    def right(self) -> Example:
        """The example without its wrong options, of which the language-modelling objective needs none."""
        return replace(
            self, continuations=[self.continuations[self.answer]], starts=[self.starts[self.answer]], answer=0
        )

    @property
    def row(self) -> int:
        """The tokens of a sequence that holds the prompt and what must be read of every option."""
        return len(self.prompt) + sum(map(len, self.tails))

    @cached_property
    def tails(self) -> list[list[int]]:
        """What a model must read after the prompt to score every option, the longest first.

        An option's last token is only predicted, never read. What remains may begin another option's remainder (always
        so where options are one token), and a causal model gives both the same outputs: one tail serves both.
        """
        kept: list[list[int]] = []
        for tail in sorted((continuation[:-1] for continuation in self.continuations), key=len, reverse=True):
            if not any(longer[: len(tail)] == tail for longer in kept):
                kept.append(tail)
        return kept
