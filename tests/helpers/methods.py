"""Every strategy with its reference: one step written from the formula, with all directions materialised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.reference import direction, estimate_of
from zolightning.optim.blocks import partition
from zolightning.optim.split import last_layers
from zolightning.perturbation.noise import Lane, Stream, parameter_words
from zolightning.perturbation.ranges import range_of
from zolightning.strategies import (
    FOSGD,
    ZOSGD,
    BlockwiseZO,
    FOAdam,
    ForwardGradient,
    HybridZOFO,
    SparseMeZO,
    Strategy,
    ZOAdam,
    ZOSGDConservative,
    ZOSGDMomentum,
    ZOSGDSign,
)

EPS, SEED = 1e-3, 7
Loss = Callable[[], Tensor]
Parts = dict[str, Tensor]
Kept = dict[str, Any]
Move = Callable[[Parts, Tensor, Kept], Parts]
Step = Callable[[nn.Module, Loss, int, float, Kept], None]


@dataclass(frozen=True)
class Method:
    """A strategy as a recipe would state it.

    Args:
        make: the strategy of a learning rate.
        reference: takes one step of a model: of its loss, the number of the step, the learning rate, and what it keeps.
        lr: a learning rate at which a tiny model descends.
        state: float32 numbers a weight that its docstring states.
    """

    make: Callable[[float], Strategy]
    reference: Step
    lr: float
    state: float = 0


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def subtract(model: nn.Module, moves: Mapping[str, Tensor], lr: float) -> None:
    parameters = trained(model)
    for name, move in moves.items():
        parameters[name].sub_(lr * move)


def by_estimate(move: Move, **settings: Any) -> Step:
    """Return a step along a function of (1/q) sum g z and of the projected gradients."""

    def step(model: nn.Module, loss: Loss, number: int, lr: float, kept: Kept) -> None:
        estimate, projected = estimate_of(model, loss, seed=SEED, step=number, eps=EPS, **settings)
        subtract(model, move(estimate, projected, kept), lr)

    return step


def itself(estimate: Parts, _projected: Tensor, _kept: Kept) -> Parts:
    return estimate


def signs(estimate: Parts, _projected: Tensor, _kept: Kept) -> Parts:
    return {name: part.sign() for name, part in estimate.items()}


def momentum(beta: float = 0.9) -> Move:
    def move(estimate: Parts, _projected: Tensor, kept: Kept) -> Parts:
        for name, part in estimate.items():
            kept[name] = beta * kept.get(name, 0.0) + part
        return {name: kept[name] for name in estimate}

    return move


def adam(betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Move:
    one, two = betas

    def move(estimate: Parts, _projected: Tensor, kept: Kept) -> Parts:
        moves = {}
        for name, g in estimate.items():
            m, v, age = kept.get(name, (0.0, 0.0, 0))
            kept[name] = m, v, age = one * m + (1 - one) * g, two * v + (1 - two) * g * g, age + 1
            moves[name] = (m / (1 - one**age)) / ((v / (1 - two**age)).sqrt() + eps)
        return moves

    return move


@torch.no_grad()
def best_of_three(model: nn.Module, loss: Loss, estimate: Parts, lr: float) -> Parts:
    """Return the estimate, its opposite or nothing: the step of lr after which the loss is least."""
    start, losses = {name: p.detach().clone() for name, p in trained(model).items()}, []
    for factor in (0.0, 1.0, -1.0):
        subtract(model, estimate, factor * lr)
        losses.append(float(loss()))
        for name, p in trained(model).items():
            p.copy_(start[name])
    return {name: (0.0, 1.0, -1.0)[losses.index(min(losses))] * part for name, part in estimate.items()}


def conservative(model: nn.Module, loss: Loss, number: int, lr: float, _kept: Kept) -> None:
    estimate, _ = estimate_of(model, loss, seed=SEED, step=number, eps=EPS)
    subtract(model, best_of_three(model, loss, estimate, lr), lr)


def forward_gradient(model: nn.Module, loss: Loss, number: int, lr: float, _kept: Kept) -> None:
    z, gradients = direction(model, SEED, number, 0), gradients_of(model, loss)
    g = torch.stack([(gradients[name] * z[name]).sum() for name in gradients]).sum()
    subtract(model, {name: g * z[name] for name in gradients}, lr)


def gradients_of(model: nn.Module, loss: Loss) -> Parts:
    parameters = trained(model)
    with torch.enable_grad():
        return dict(zip(parameters, torch.autograd.grad(loss(), list(parameters.values())), strict=True))


def by_gradient(move: Move) -> Step:
    def step(model: nn.Module, loss: Loss, _number: int, lr: float, kept: Kept) -> None:
        subtract(model, move(gradients_of(model, loss), torch.zeros(()), kept), lr)

    return step


def smallest(model: nn.Module, kept: Kept) -> Parts:
    """Return the mask of weights at or below the thresholds that were found at the first step."""
    for name, p in trained(model).items():
        if p.ndim > 1 and name not in kept:
            kept[name] = p.detach().abs().flatten().sort().values[round(0.3 * p.numel()) - 1]
    return {name: p.detach().abs() <= kept[name] for name, p in trained(model).items() if p.ndim > 1}


def sparse_mezo(model: nn.Module, loss: Loss, number: int, lr: float, kept: Kept) -> None:
    by_estimate(itself, masks=smallest(model, kept))(model, loss, number, lr, kept)


def at_random(model: nn.Module, loss: Loss, number: int, lr: float, kept: Kept) -> None:
    """Step on half of each matrix: the elements of the smallest random words, new ones every four steps."""
    words = parameter_words(name for name, _ in model.named_parameters())
    masks = {}
    for name, p in trained(model).items():
        if p.ndim > 1:
            stream = Stream(SEED, words[name], step=number // 4 * 4, lane=Lane.MASK)
            numbers = range_of("keys", stream, 0, p.numel())
            masks[name] = (numbers <= numbers.sort().values[round(0.5 * p.numel()) - 1]).view(p.shape)
    by_estimate(itself, masks=masks)(model, loss, number, lr, kept)


def snip(model: nn.Module, loss: Loss, number: int, lr: float, kept: Kept) -> None:
    """Step on the half of each matrix with the largest |theta df/dtheta| at the first step."""
    if not kept:
        for name, gradient in gradients_of(model, loss).items():
            p = trained(model)[name].detach()
            if p.ndim > 1:
                order = (gradient * p).abs().flatten().sort(descending=True, stable=True).indices
                kept[name] = torch.zeros_like(p, dtype=torch.bool)
                kept[name].view(-1)[order[: round(0.5 * p.numel())]] = True
    by_estimate(itself, masks=kept)(model, loss, number, lr, kept)


def blockwise(move: Move) -> Step:
    """Return a step along a function of the estimate, block by block."""

    def step(model: nn.Module, loss: Loss, number: int, lr: float, kept: Kept) -> None:
        in_blocks(model, loss, number, lr, kept, move)

    return step


def in_blocks(
    model: nn.Module,
    loss: Loss,
    number: int,
    lr: float,
    kept: Kept,
    move: Move,
) -> None:
    names, parameters = {p: name for name, p in trained(model).items()}, trained(model)
    for block in partition(model, names, "layer"):
        for p in parameters.values():
            p.requires_grad_(names[p] in block)
        by_estimate(move)(model, loss, number, lr, kept)
    for p in parameters.values():
        p.requires_grad_(True)


def hybrid(below: Move, above: Move) -> Step:
    """Return a step along a function of the estimate below the last block, and of the gradient from there on."""

    def step(model: nn.Module, loss: Loss, number: int, lr: float, kept: Kept) -> None:
        parameters = trained(model)
        upper = last_layers(model, {p: name for name, p in parameters.items()}, 1)
        gradients = {name: g for name, g in gradients_of(model, loss).items() if name in upper}
        for name, p in parameters.items():
            p.requires_grad_(name not in upper)
        by_estimate(below)(model, loss, number, lr, kept)
        for p in parameters.values():
            p.requires_grad_(True)
        subtract(model, above(gradients, torch.zeros(()), kept), lr)

    return step


METHODS: dict[str, Method] = {
    "ZOSGD": Method(lambda lr: ZOSGD(lr, EPS), by_estimate(itself), 3e-3),
    "ZOSGD q=3": Method(lambda lr: ZOSGD(lr, EPS, 3), by_estimate(itself, num_queries=3), 3e-3),
    "ZOSGD one-sided": Method(
        lambda lr: ZOSGD(lr, EPS, estimator="one_sided"), by_estimate(itself, one_sided=True), 3e-3
    ),
    "ZOSGD random mask": Method(
        lambda lr: ZOSGD(lr, EPS, mask="random", sparsity=0.5, resample_every=4), at_random, 5e-3
    ),
    "ZOSGD snip": Method(lambda lr: ZOSGD(lr, EPS, mask="snip", sparsity=0.5), snip, 5e-3, state=1 / 32),
    "ZOSGDSign": Method(lambda lr: ZOSGDSign(lr, EPS), by_estimate(signs), 3e-3),
    "ZOSGDMomentum": Method(lambda lr: ZOSGDMomentum(lr, EPS), by_estimate(momentum()), 5e-4, state=1),
    "ZOSGDConservative": Method(lambda lr: ZOSGDConservative(lr, EPS), conservative, 3e-3),
    "ZOAdam": Method(lambda lr: ZOAdam(lr, EPS), by_estimate(adam()), 3e-3, state=2),
    "SparseMeZO": Method(lambda lr: SparseMeZO(lr, EPS, 0.3), sparse_mezo, 5e-3),
    "ForwardGradient": Method(lambda lr: ForwardGradient(lr), forward_gradient, 3e-3),
    "BlockwiseZO": Method(lambda lr: BlockwiseZO(ZOSGD(lr, EPS)), blockwise(itself), 3e-3),
    "HybridZOFO": Method(lambda lr: HybridZOFO(ZOSGD(lr, EPS), FOSGD(lr), 1), hybrid(itself, itself), 3e-3),
    "BlockwiseZO of ZOAdam": Method(lambda lr: BlockwiseZO(ZOAdam(lr, EPS)), blockwise(adam()), 3e-3, state=2),
    "HybridZOFO of ZOAdam and FOAdam": Method(
        lambda lr: HybridZOFO(ZOAdam(lr, EPS), FOAdam(lr), 1), hybrid(adam(), adam()), 3e-3, state=2
    ),
    "FOSGD": Method(lambda lr: FOSGD(lr), by_gradient(itself), 3e-2),
    "FOAdam": Method(lambda lr: FOAdam(lr), by_gradient(adam()), 3e-3, state=2),
}
