"""A model probed by the engine, and the same one with weights that have really been moved."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.helpers.reference import direction, materialised
from zolightning.perturbation.engine import Engine
from zolightning.perturbation.noise import Stream

PLACE = Stream(seed=3, parameter=0, step=1)
SCALE = 0.25


@torch.no_grad()
def probed(model: nn.Module, inputs: Tensor, engine: Engine | None = None) -> Tensor:
    """Return what a model gives in a probe."""
    with (engine or Engine(model)).perturbed(PLACE, SCALE):
        out: Tensor = model(inputs)
    return out


@torch.no_grad()
def expected(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a model gives whose weights have really been moved."""
    out: Tensor = materialised(model, direction(model, PLACE.seed, PLACE.step, PLACE.query), SCALE)(inputs)
    return out


def random(*shape: int) -> Tensor:
    """Return normal numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
