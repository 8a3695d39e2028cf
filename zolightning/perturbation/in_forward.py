"""Weights that are perturbed only inside the forward of the module that uses them.

The weights themselves never move, so nothing drifts, a mask can be made from them at every probe, and a sharded weight
is seen gathered. Between a module's pre-forward and forward hook its parameter is a perturbed copy in a reused scratch
buffer; the hooks exist for the length of one probe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, nn


class Perturb(Protocol):
    """Writes a perturbed weight: `perturb(name, weight [n], out [n])`, both flat."""

    def __call__(self, name: str, weight: Tensor, out: Tensor) -> None:
        """Fill `out` from `weight`."""


class Scratch:
    """Reused buffers for perturbed weights, taken and released in the order of a stack.

    Modules nest, so several weights can be in use at once; the n-th in use always gets the n-th buffer.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._used = 0

    def take(self, like: Tensor) -> Tensor:
        """Return a flat buffer with as many elements as `like`, on its device, in its dtype."""
        if self._used == len(self._buffers):
            self._buffers.append(like.new_empty(0))
        buffer = self._buffers[self._used]
        if buffer.numel() < like.numel() or buffer.dtype != like.dtype or buffer.device != like.device:
            buffer = self._buffers[self._used] = like.new_empty(like.numel())
        self._used += 1
        return buffer[: like.numel()]

    def release(self, count: int) -> None:
        """Give back the last `count` buffers taken."""
        self._used -= count

    @property
    def nbytes(self) -> int:
        """The memory that the buffers hold, in bytes."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers)


class InForward:
    """Probes a model at perturbed weights without moving them.

    Args:
        model: the model; its modules are looked through once, its parameters are read when a hook fires.
        names: the canonical name of each trainable parameter, by identity; a tied one has one name, so one direction.
    """

    def __init__(self, model: nn.Module, names: Mapping[nn.Parameter, str]) -> None:
        self._scratch = Scratch()
        self._modules: list[tuple[nn.Module, tuple[tuple[str, str], ...]]] = []
        for module in model.modules():
            own = module.named_parameters(recurse=False, remove_duplicate=False)
            attributes = tuple((attribute, names[parameter]) for attribute, parameter in own if parameter in names)
            if attributes:
                self._modules.append((module, attributes))

    @contextmanager
    def perturbed(self, perturb: Perturb) -> Iterator[None]:
        """Let every forward within see the weights as `perturb` writes them."""
        handles = []
        try:
            for module, attributes in self._modules:
                swap = _Swap(attributes, perturb, self._scratch)
                handles.append(module.register_forward_pre_hook(swap.before))
                handles.append(module.register_forward_hook(swap.after, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Swap:
    """Puts perturbed parameters into one module for the length of its forward."""

    def __init__(self, attributes: tuple[tuple[str, str], ...], perturb: Perturb, scratch: Scratch) -> None:
        self._attributes = attributes
        self._perturb = perturb
        self._scratch = scratch
        self._kept: list[list[nn.Parameter]] = []

    def before(self, module: nn.Module, _inputs: object) -> None:
        kept: list[nn.Parameter] = []
        self._kept.append(kept)
        for attribute, name in self._attributes:
            parameter = module._parameters[attribute]
            assert parameter is not None
            flat = parameter.detach().reshape(-1)
            buffer = self._scratch.take(flat)
            kept.append(parameter)
            self._perturb(name, flat, buffer)
            module._parameters[attribute] = nn.Parameter(buffer.view(parameter.shape), requires_grad=False)

    def after(self, module: nn.Module, _inputs: object, _output: object) -> None:
        # Runs after an exception too, whichever hook raised it: put back what was taken, and no more.
        kept = self._kept.pop() if self._kept else []
        for (attribute, _), parameter in zip(self._attributes, kept, strict=False):
            module._parameters[attribute] = parameter
        self._scratch.release(len(kept))
