"""Blocks: parts of a model that are probed and updated one at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from zolightning.errors import ConfigurationError, check_choice

Granularity = Literal["layer", "half_layer", "linear"]
Order = Literal["sequential", "joint"]
Choice = Literal["cycle", "sample"]

Block = tuple[str, ...]


@dataclass(frozen=True)
class Blocks:
    """How a model is cut into blocks, and which of them a step works on.

    Args:
        granularity: `layer` a transformer block each, `half_layer` its attention and the rest of it, `linear` each
            module that holds parameters. What lies outside of transformer blocks is a block a module in every case.
        order: `sequential` updates each block before the next one is probed, `joint` all after the last. Where a loss
            is not finite, the former skips the block, the latter the step.
        blocks_per_step: how many blocks a step works on, or None for all.
        choice: which: `cycle` goes on where the last step ended, `sample` draws them anew.

    Raises:
        ConfigurationError: if a choice is not one of those, or `blocks_per_step` is below 1.
    """

    granularity: Granularity = "layer"
    order: Order = "sequential"
    blocks_per_step: int | None = None
    choice: Choice = "cycle"

    def __post_init__(self) -> None:
        """Check the choices and the number."""
        for name, choices in (("granularity", Granularity), ("order", Order), ("choice", Choice)):
            check_choice(name, getattr(self, name), get_args(choices))
        if self.blocks_per_step is not None and self.blocks_per_step < 1:
            raise ConfigurationError(
                f"blocks_per_step must be at least 1, or null for all blocks, got {self.blocks_per_step}"
            )

    def of_step(self, blocks: Sequence[Block], step: int, seed: int) -> list[Block]:
        """Return the blocks of a step; a seed and a step determine them."""
        count = len(blocks) if self.blocks_per_step is None else min(self.blocks_per_step, len(blocks))
        if count == len(blocks):
            return list(blocks)
        if self.choice == "cycle":
            return [blocks[(step * count + number) % len(blocks)] for number in range(count)]
        return [blocks[number] for number in sorted(random.Random(f"{seed}/{step}").sample(range(len(blocks)), count))]


def partition(model: nn.Module, names: Mapping[nn.Parameter, str], granularity: Granularity) -> list[Block]:
    """Cut the trainable parameters of a model into blocks, each parameter in the first that holds it.

    Transformer blocks are found by structure: the elements of the outermost lists of modules of one class.

    Args:
        model: the model.
        names: the canonical name of each trainable parameter.
        granularity: how fine.
    """
    layers = set(layers_of(model))
    owners: dict[str, list[str]] = {}
    seen: set[str] = set()
    for path, module in model.named_modules():
        owner = _owner(path, model, layers, granularity)
        for parameter in module.parameters(recurse=False):
            name = names.get(parameter)
            if name is not None and name not in seen:
                seen.add(name)
                owners.setdefault(owner, []).append(name)
    return [tuple(block) for block in owners.values()]


def layers_of(model: nn.Module, path: str = "") -> Iterator[str]:
    """Yield the paths of transformer blocks: of the elements of the outermost lists of modules of one class."""
    for name, child in model.named_children():
        here = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList) and len({type(element) for element in child}) == 1:
            yield from (f"{here}.{number}" for number in range(len(child)))
        else:
            yield from layers_of(child, here)


def _owner(path: str, model: nn.Module, layers: set[str], granularity: Granularity) -> str:
    """Return the name of the block that the module at a path belongs to."""
    layer = next((layer for layer in layers if path == layer or path.startswith(f"{layer}.")), None)
    if layer is None or granularity == "linear":
        return path
    if granularity == "layer":
        return layer
    child = path[len(layer) + 1 :].split(".", 1)[0]
    # Hugging Face's classes say what they are; a transformer block holds its attention as one module.
    attends = bool(child) and "attention" in type(model.get_submodule(f"{layer}.{child}")).__name__.lower()
    return f"{layer}:{'attention' if attends else 'rest'}"
