"""Cutting a model in two: the last transformer blocks with what follows them, and all that comes before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from zolightning.errors import ConfigurationError
from zolightning.optim.blocks import layers_of


@torch.no_grad()
def last_layers(model: nn.Module, names: Mapping[nn.Parameter, str], count: int) -> set[str]:
    """Return the names of the parameters of the last transformer blocks and of what runs after them.

    What runs after them is seen in a forward of one sequence of two tokens. A weight that something earlier shares, as
    a tied head's, is none of them, unless all blocks are asked for, which are all of the model.

    Args:
        model: a transformer whose blocks are a list of modules of one class, called with `input_ids`.
        names: the canonical name of each trainable parameter.
        count: of the blocks, from the end.

    Raises:
        ConfigurationError: if there are fewer blocks, none are found, or the model is called otherwise.
    """
    paths = list(layers_of(model))
    if not paths:
        raise ConfigurationError(f"{type(model).__name__} has no list of blocks of one class: it cannot be cut in two")
    if not 0 <= count <= len(paths):
        raise ConfigurationError(f"the number of blocks must lie in [0, {len(paths)}], as the model has, got {count}")
    if count in (0, len(paths)):
        return set(names.values()) if count else set()
    upper = {module for path in paths[-count:] for module in model.get_submodule(path).modules()}
    upper |= _run_after(model, paths)
    lower = {parameter for module in set(model.modules()) - upper for parameter in module.parameters(recurse=False)}
    return {name for parameter, name in names.items() if parameter not in lower}


def _run_after(model: nn.Module, paths: list[str]) -> set[nn.Module]:
    """Return the modules outside of the blocks that begin to run when the last block is done."""
    inside = {module for path in paths for module in model.get_submodule(path).modules()}
    last, done, found = model.get_submodule(paths[-1]), False, set[nn.Module]()

    def begins(module: nn.Module, _inputs: object) -> None:
        if done:
            found.update(module.modules())

    def ends(_module: nn.Module, _inputs: object, _output: object) -> None:
        nonlocal done
        done = True

    handles = [module.register_forward_pre_hook(begins) for module in model.modules() if module not in inside]
    handles.append(last.register_forward_hook(ends))
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=next(model.parameters()).device))
    except TypeError as error:
        raise ConfigurationError(
            f"{type(model).__name__} is not called with input_ids, so what runs after its blocks is not seen: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def training(model: nn.Module, trained: set[nn.Parameter]) -> Iterator[None]:
    """Let none but the given parameters require gradients; afterwards those do that did before."""
    before = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in before:
            parameter.requires_grad_(parameter in trained)
        yield
    finally:
        for parameter in before:
            parameter.requires_grad_(True)
