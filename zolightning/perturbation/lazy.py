"""A weight that is perturbed by the operation that reads it, and only as far as that operation reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

# What these return says nothing of a weight's values.
_SHAPE_METHODS = frozenset(
    {"size", "dim", "stride", "numel", "nelement", "element_size", "is_contiguous", "is_floating_point", "__len__"}
)


class Source(Protocol):
    """Makes the perturbed weight of one parameter, or parts of it."""

    def whole(self) -> Tensor:
        """Return the whole perturbed weight, which lasts as long as the module's forward."""

    def rows(self, numbers: Tensor) -> Tensor:
        """Return perturbed rows [n, ...] of given numbers [n]."""

    def matmul(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """Return inputs [..., columns] times the perturbed weight's transpose, plus bias, [..., rows]."""


class LazyWeight(Tensor):
    """Looks like the weight to whoever asks for its shape, dtype or device; perturbed to whoever computes with it.

    A linear map takes it chunk by chunk of rows, an embedding makes only the rows that it looks up, and for any other
    operation the whole weight is perturbed once.
    """

    source: Source

    @classmethod
    def around(cls, weight: Tensor, source: Source) -> LazyWeight:
        """Return a stand-in for a weight; it shares the weight's memory, which nobody reads through it."""
        lazy = weight.detach().as_subclass(cls)
        lazy.source = source
        return lazy

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute with the perturbed weight in the place of each stand-in."""
        given = {} if kwargs is None else kwargs
        name = func.__name__
        if name == "__get__" or name in _SHAPE_METHODS:
            with torch._C.DisableTorchFunctionSubclass():
                found = func(*args, **given)
            if not isinstance(found, Tensor):
                return found
        elif func is functional.linear:
            return _linear(*args, **given)
        elif func is functional.embedding:
            return _embedding(*args, **given)
        return func(*_perturbed(args), **_perturbed(given))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002  torch's own name
    inputs, offset = _perturbed(input), _perturbed(bias)
    if isinstance(weight, LazyWeight):
        return weight.source.matmul(inputs, offset)
    return functional.linear(inputs, weight, offset)


def _embedding(
    input: Tensor,  # noqa: A002  torch's own name
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    # With max_norm the operation would write to the weight.
    if isinstance(weight, LazyWeight) and max_norm is None:
        return weight.source.rows(input.reshape(-1)).view(*input.shape, weight.size(1))
    return functional.embedding(input, _perturbed(weight), padding_idx, max_norm, *args, **kwargs)


def _perturbed(value: Any) -> Any:
    """Return a value with the whole perturbed weight in the place of each stand-in."""
    if isinstance(value, LazyWeight):
        return value.source.whole()
    if isinstance(value, tuple | list):
        return type(value)(_perturbed(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _perturbed(item) for key, item in value.items()}
    return value
