"""Weights that are perturbed only inside the forward of the module that uses them.

The weights themselves never move, so nothing drifts, a mask can be made from them at every probe, and a sharded weight
is seen gathered. Between a module's pre-forward and forward hook its parameter is a stand-in that makes the perturbed
weight for the operation that asks for it; the hooks exist for the length of one probe.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zolightning.perturbation.lazy import LazyWeight
from zolightning.perturbation.shards import is_sharded, units_of

# The module that holds a parameter, the attribute, and the parameter's canonical name.
Attributes = tuple[tuple[nn.Module, str, str], ...]


class StandIn(Protocol):
    """Gives what a module sees in a parameter's place: `stand_in(name, weight)`."""

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """Return the stand-in of a weight."""


class Scope(Protocol):
    """Is told when a module's forward begins to use weights and when it is done with them."""

    def enter(self) -> None:
        """Called before the first stand-in of a module is made."""

    def leave(self, output: Any) -> Any:
        """Called when the module has its parameters back; returns its output, fit to outlive the forward."""


class InForward:
    """Probes a model at perturbed weights without moving them.

    Args:
        model: the model; its modules are looked through once, its parameters are read when a hook fires.
        names: the canonical name of each trainable parameter, by identity; a tied one has one name, so one direction.
    """

    def __init__(self, model: nn.Module, names: Mapping[nn.Parameter, str]) -> None:
        self._hidden: dict[str, Tensor] = {}
        self._parameters = {name: parameter for parameter, name in names.items()}
        self._units = units_of(model)
        called = (module for module in model.modules() if module is model or _has_forward(module))
        attributes = ((module, _read_by(module, names)) for module in called)
        self._modules: list[tuple[nn.Module, Attributes]] = [(module, read) for module, read in attributes if read]

    @contextmanager
    def perturbed(self, stand_in: StandIn, scope: Scope, moving: Collection[str]) -> Iterator[None]:
        """Let every forward within see stand-ins for the weights whose names are in `moving`.

        What torch.compile has made of a module runs eager meanwhile: code made without hooks would be taken for code
        with them.
        """
        handles = []
        # Importing the compiler takes seconds, and nothing can have been compiled before somebody did.
        eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
        try:
            for module, all_attributes in self._modules:
                attributes = tuple(attribute for attribute in all_attributes if attribute[2] in moving)
                if not attributes:
                    continue
                swap = _Swap(attributes, self._hidden, stand_in, scope)
                handles.append(module.register_forward_pre_hook(swap.before))
                # Before whoever lets go of gathered weights once the module is done with them.
                handles.append(module.register_forward_hook(swap.after, prepend=True, always_call=True))
            with eager:
                yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Let whoever reads a weight elsewhere than through its module find nothing but NaN; stand-ins are not touched.

        A single NaN is spread over the weight's shape, so that this takes no memory. Sharded weights are hidden while
        they are gathered; outside of the forwards that gather them nobody can compute with them.
        """
        veil = _Veil(self._hidden)
        veil.cover({name: p for name, p in self._parameters.items() if not is_sharded(p)})
        handles = []
        try:
            # Casts that autocast has kept would show what is hidden, and afterwards NaN.
            torch.clear_autocast_cache()
            for unit in self._units:
                gathered = _GatheredVeil(self._modules, self._hidden)
                handles.append(unit.register_forward_pre_hook(gathered.before))
                handles.append(unit.register_forward_hook(gathered.after, prepend=True, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            torch.clear_autocast_cache()
            veil.lift()


class _Veil:
    """Puts NaN in the place of weights, and keeps what was there by name."""

    def __init__(self, hidden: dict[str, Tensor]) -> None:
        self._hidden = hidden
        self._covered: dict[str, nn.Parameter] = {}

    def cover(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._covered = dict(parameters)
        for name, parameter in parameters.items():
            self._hidden[name] = parameter.data
            nan = torch.full((), float("nan"), dtype=parameter.dtype, device=parameter.device)
            parameter.data = nan.expand(parameter.shape)

    def lift(self) -> None:
        for name, parameter in self._covered.items():
            parameter.data = self._hidden.pop(name)
        self._covered = {}


class _GatheredVeil:
    """Hides the weights that a unit of a sharded model has gathered, for the length of its forward."""

    def __init__(self, modules: Sequence[tuple[nn.Module, Attributes]], hidden: dict[str, Tensor]) -> None:
        self._attributes = [attribute for _, attributes in modules for attribute in attributes]
        self._hidden = hidden
        self._veil = _Veil(hidden)

    def before(self, _unit: nn.Module, _inputs: object) -> None:
        found = {
            name: parameter
            for holder, attribute, name in self._attributes
            if (parameter := holder._parameters[attribute]) is not None
            and name not in self._hidden
            and not is_sharded(parameter)
        }
        self._veil.cover(found)

    def after(self, _unit: nn.Module, _inputs: object, _output: object) -> None:
        self._veil.lift()


def _read_by(module: nn.Module, names: Mapping[nn.Parameter, str]) -> Attributes:
    """Return the trainable parameters that a module's forward reads: its own, and those of parts without a forward."""
    own = module.named_parameters(recurse=False, remove_duplicate=False)
    found: Attributes = tuple(
        (module, attribute, names[parameter]) for attribute, parameter in own if parameter in names
    )
    for part in module.children():
        found += () if _has_forward(part) else _read_by(part, names)
    return found


def _has_forward(module: nn.Module) -> bool:
    """Return whether a module is called; lists and dictionaries of modules or parameters, say, are not."""
    return type(module).forward is not nn.Module.forward


class _Swap:
    """Puts stand-ins into one module for the length of its forward."""

    def __init__(self, attributes: Attributes, hidden: Mapping[str, Tensor], stand_in: StandIn, scope: Scope) -> None:
        self._attributes = attributes
        self._hidden = hidden
        self._stand_in = stand_in
        self._scope = scope
        self._kept: list[list[nn.Parameter]] = []

    def before(self, module: nn.Module, _inputs: object) -> None:
        kept: list[nn.Parameter] = []
        self._kept.append(kept)
        self._scope.enter()
        for holder, attribute, name in self._attributes:
            # A module's parameters may be tensors of any kind, for all that its annotations say.
            parameters: dict[str, Any] = holder._parameters
            parameter = parameters[attribute]
            kept.append(parameter)
            parameters[attribute] = self._stand_in(name, self._hidden.get(name, parameter.detach()))

    def after(self, module: nn.Module, _inputs: object, output: Any) -> Any:
        # Runs after an exception too, whichever hook raised it: put back what was taken, and no more.
        if not self._kept:
            return output
        kept = self._kept.pop()
        for (holder, attribute, _), parameter in zip(self._attributes, kept, strict=False):
            holder._parameters[attribute] = parameter
        # Nearly always it is a plain tensor; to walk a tree takes as long as the rest.
        if type(output) is not Tensor:
            output = pytree.tree_map_only(LazyWeight, lambda lazy: lazy.source.whole(), output)
        return self._scope.leave(output)
