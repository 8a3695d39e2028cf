"""Zeroth-order steps written from their formulas, with every direction materialised."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from zolightning.perturbation.noise import Stream, parameter_words
from zolightning.perturbation.options import Distribution
from zolightning.perturbation.ranges import Kind, range_of

Model = TypeVar("Model", bound=nn.Module)


def direction(
    model: nn.Module, seed: int, step: int, query: int, distribution: Distribution = "gaussian"
) -> dict[str, Tensor]:
    """Return a direction for every trainable parameter by name, in the dtype of its arithmetic."""
    words = parameter_words(name for name, _ in model.named_parameters())
    kind: Kind = "signs" if distribution == "rademacher" else "gaussian"
    z = {
        name: numbers(kind, Stream(seed, words[name], step, query), p.numel())
        .view(p.shape)
        .to(torch.promote_types(p.dtype, torch.float32))
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    if distribution == "sphere":
        whole = torch.cat([part.flatten().double() for part in z.values()])
        radius = math.sqrt(whole.numel()) / float(whole.norm())
        z = {name: part * radius for name, part in z.items()}
    return z


@functools.lru_cache(maxsize=4096)
def numbers(kind: Kind, stream: Stream, size: int) -> Tensor:
    """Return the first numbers of a stream [size]; kept, because every strategy is held against the same ones."""
    return range_of(kind, stream, 0, size)


@torch.no_grad()
def materialised(model: Model, z: Mapping[str, Tensor], scale: float) -> Model:
    """Return a copy of a model whose weights are theta + scale z, each rounded once."""
    moved = copy.deepcopy(model)
    for name, parameter in moved.named_parameters():
        if name in z:
            parameter.copy_(parameter.to(z[name].dtype) + scale * z[name])
    return moved


@torch.no_grad()
def spsa_step(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    seed: int,
    step: int,
    lr: float,
    eps: float,
    num_queries: int = 1,
    distribution: Distribution = "gaussian",
    weight_decay: float = 0.0,
    masks: dict[str, Tensor] | None = None,
) -> float:
    """Take one step of theta <- theta - lr ((1/q) sum g z + weight_decay theta) on copies of the weights."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = {name: p.clone() for name, p in parameters.items()}
    ones = {name: torch.ones_like(p, dtype=torch.bool) for name, p in parameters.items()}
    mask = ones if masks is None else {**ones, **masks}
    estimate = {name: torch.zeros_like(p) for name, p in parameters.items()}
    losses = []
    for query in range(num_queries):
        z = direction(model, seed, step, query, distribution)
        sides = []
        for sign in (1, -1):
            for name, p in parameters.items():
                p.copy_(torch.where(mask[name], start[name] + sign * eps * z[name], start[name]))
            sides.append(loss())
        g = (sides[0] - sides[1]) / (2 * eps)
        losses += sides
        for name in parameters:
            estimate[name] += g * z[name] / num_queries
    for name, p in parameters.items():
        decay = weight_decay if p.ndim >= 2 else 0.0
        p.copy_(torch.where(mask[name], start[name] - lr * (estimate[name] + decay * start[name]), start[name]))
    return float(torch.stack(losses).mean())


@torch.no_grad()
def estimate_of(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    seed: int,
    step: int,
    eps: float,
    num_queries: int = 1,
    one_sided: bool = False,
    masks: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return (1/q) sum g z by name, and the projected gradients, with every direction materialised."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = {name: p.clone() for name, p in parameters.items()}
    here, estimate, projected = loss(), {name: torch.zeros_like(p) for name, p in parameters.items()}, []
    for query in range(num_queries):
        z = direction(model, seed, step, query)
        z = {name: part * masks[name] if masks and name in masks else part for name, part in z.items()}
        sides = []
        for sign in (1, -1):
            for name, p in parameters.items():
                p.copy_(start[name] + sign * eps * z[name])
            sides.append(loss())
        g = (sides[0] - here) / eps if one_sided else (sides[0] - sides[1]) / (2 * eps)
        projected.append(g)
        for name in parameters:
            estimate[name] += g * z[name] / num_queries
    for name, p in parameters.items():
        p.copy_(start[name])
    return estimate, torch.stack(projected)
