"""A probe of which every weight that is read behind the engine's back comes out as NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zolightning.errors import ConfigurationError
from zolightning.perturbation.engine import Engine
from zolightning.perturbation.noise import Stream

_REMEDY = "set engine.probe: in_place, which perturbs the weights themselves"


def self_check(engine: Engine, model: nn.Module, closure: Callable[[], Tensor], place: Stream, eps: float) -> None:
    """Check, with one probe, that perturbing weights inside their own modules reaches all that the closure computes.

    The weights are hidden behind NaN meanwhile, except from the engine: a module that reads its neighbour's weight
    gives a loss of NaN, whereas at a tiny eps its error would be too small to see. Waits for the device.

    Args:
        engine: perturbs in the forward; with in-place probes there is nothing to check.
        model: the model.
        closure: returns the loss [].
        place: where the direction begins.
        eps: the smoothing parameter.

    Raises:
        ConfigurationError: naming the parameters that no module used, or the modules that read others' weights.
    """
    if engine.options.probe == "in_place":
        return
    failure: Exception | None = None
    try:
        with engine.hidden(), engine.perturbed(place, eps):
            healthy = bool(torch.isfinite(closure()))
    except (RuntimeError, ValueError) as error:
        healthy, failure = False, error
    if not healthy:
        with engine.perturbed(place, eps):
            # If the loss is not finite anyhow, that is for the guard against such steps to say.
            if not torch.isfinite(closure()):
                return
        raise ConfigurationError(_complaint(engine, model, closure, place, eps)) from failure
    if unvisited := engine.unvisited():
        raise ConfigurationError(
            f"no forward of the closure used {', '.join(unvisited)} through its module, so that it cannot be "
            f"perturbed: freeze it with requires_grad_(False), call the module that holds it, or {_REMEDY}"
        )


def _complaint(engine: Engine, model: nn.Module, closure: Callable[[], Tensor], place: Stream, eps: float) -> str:
    culprits: list[str] = []
    try:
        with engine.hidden(), engine.perturbed(place, eps), _watched(model, culprits):
            closure()
    except (RuntimeError, ValueError):
        culprits = culprits or ["a module that fails on a weight of NaN"]
    who = ", ".join(culprits) or "the closure, outside of any module,"
    return (
        f"{who} reads weights that are not its own, which a perturbation inside each module's forward does not reach: "
        f"{_REMEDY}"
    )


@contextmanager
def _watched(model: nn.Module, culprits: list[str]) -> Iterator[None]:
    """Collect the innermost modules that make something that is not finite out of what is."""
    names = {module: name or type(module).__name__ for name, module in model.named_modules()}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: object) -> None:
        inner = any(name.startswith(f"{names[module]}.") for name in culprits) or (module is model and culprits)
        if not inner and _finite((args, kwargs)) and not _finite(output):
            culprits.append(names[module])

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(values: object) -> bool:
    tensors = (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    # Attention masks hold minus infinity by right.
    return not any(torch.isnan(tensor).any() for tensor in tensors)
