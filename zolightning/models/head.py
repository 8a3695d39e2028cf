"""Making a model's output head compute only the logits that somebody reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.nn.functional import embedding, linear

# Looking rows up costs a copy of them, so it must spare several times as many.
_SPARED = 4


@contextmanager
def reading(head: nn.Module, rows: Tensor, positions: Tensor, length: int) -> Iterator[None]:
    """Hand the head only the outputs at the given places, as one sequence [1, reads, width].

    Args:
        head: The output head.
        rows: The sequence of each read [reads].
        positions: The token whose output is read [reads].
        length: The tokens of a sequence that the model is given.
    """

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


def has_rows(head: nn.Module, number: int) -> TypeGuard[nn.Linear]:
    """Whether a head can compute ``number`` of its rows alone, and it pays: it is a plain linear layer, of many more.

    Not if it has a forward of its own, as adapters, quantised layers and other libraries' wrappers do.
    """
    plain = type(head).forward is nn.Linear.forward and "forward" not in vars(head)
    return plain and isinstance(head, nn.Linear) and number * _SPARED <= head.out_features


@contextmanager
def only_rows(head: nn.Linear, rows: Tensor) -> Iterator[None]:
    """Let a head compute the given rows [rows] alone.

    The weight is read in the forward and by a look-up, so that whoever puts another in its place for the length of the
    forward need make these rows only.
    """

    def forward(input: Tensor) -> Tensor:  # noqa: A002
        bias: Tensor | None = head.bias
        return linear(input, embedding(rows, head.weight), None if bias is None else bias[rows])

    head.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward
