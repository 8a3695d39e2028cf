"""Reused buffers for perturbed weights."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


class Scratch:
    """Buffers taken and given back in the order of a stack: the n-th in use is always the n-th buffer.

    Modules nest, so weights of several can be in use at once.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._used = 0
        self._marks: list[int] = []
        self._spoiling = False

    def take(self, elements: int, like: Tensor) -> Tensor:
        """Return a flat buffer with so many elements, on the device and in the dtype of `like`."""
        if self._used == len(self._buffers):
            self._buffers.append(like.new_empty(0))
        buffer = self._buffers[self._used]
        if buffer.numel() < elements or buffer.dtype != like.dtype or buffer.device != like.device:
            buffer = self._buffers[self._used] = like.new_empty(elements)
        self._used += 1
        return buffer[:elements]

    @contextmanager
    def borrow(self, elements: int, like: Tensor) -> Iterator[Tensor]:
        """Take a buffer for the length of an operation."""
        try:
            yield self.take(elements, like)
        finally:
            self._used -= 1
            self._spoil(self._used)

    @contextmanager
    def spoiled(self) -> Iterator[None]:
        """Fill what is given back with NaN, so that whoever still reads it shows."""
        self._spoiling = True
        try:
            yield
        finally:
            self._spoiling = False

    def _spoil(self, number: int) -> None:
        if self._spoiling:
            self._buffers[number].fill_(float("nan"))

    def enter(self) -> None:
        """Remember what is in use as a module's forward begins."""
        self._marks.append(self._used)

    def leave(self, output: Any) -> Any:
        """Give back what has been taken since the last `enter`.

        Returns:
            The output of the module that took it, where it lies in a buffer a copy: some hand their weight on.
        """
        mark = self._marks.pop()
        if mark == self._used:
            return output
        numbers = range(mark, self._used)
        taken = {self._buffers[number].untyped_storage().data_ptr() for number in numbers}
        self._used = mark
        if any(_lies_in(taken, leaf) for leaf in pytree.tree_leaves(output)):
            output = pytree.tree_map(lambda leaf: leaf.clone() if _lies_in(taken, leaf) else leaf, output)
        for number in numbers:
            self._spoil(number)
        return output


def _lies_in(storages: Set[int], value: object) -> bool:
    return isinstance(value, Tensor) and value.untyped_storage().data_ptr() in storages
