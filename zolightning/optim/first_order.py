"""First-order optimizers with the same `step(closure)`: forward, backward, clipping and update in one call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.optim.estimators import Closure
from zolightning.optim.groups import decay_groups
from zolightning.optim.guard import SkipGuard
from zolightning.perturbation.rounding import wide
from zolightning.perturbation.shards import is_sharded
from zolightning.phases import phase


def backpropagate(optimizer: Optimizer, closure: Closure | None, clip_norm: float | None) -> tuple[Tensor, Tensor]:
    """Fill the gradients of an optimizer's parameters, and return the loss [] and whether it and they are finite [].

    Args:
        optimizer: holds the parameters.
        closure: returns the loss [] with its graph. A closure that has split its batch may call backward on each part
            itself and return the total without a graph.
        clip_norm: the largest norm of the whole gradient, or None.

    Raises:
        ConfigurationError: if no closure is given, or its loss has no gradient.
    """
    if closure is None:
        raise ConfigurationError("a first-order step needs a closure that returns the loss: optimizer.step(closure)")
    optimizer.zero_grad(set_to_none=True)
    with phase("probe"), torch.enable_grad():
        loss = closure()
        if loss.requires_grad:
            torch.autograd.backward(loss)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        raise ConfigurationError("the closure's loss has no gradient: compute it from the model, with its graph")
    norm = nn.utils.get_total_norm(gradients)
    # Of sharded gradients each process has a part, and of the norm too.
    norm = norm.full_tensor() if is_sharded(norm) else norm
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return wide(loss.detach()), torch.isfinite(loss.detach()) & torch.isfinite(norm)


class FirstOrderOptimizer(Optimizer, ABC):
    """Base of optimizers by backpropagation, whose step is also there in two halves.

    Attributes:
        clip_norm: the largest norm of the whole gradient, or None.
        guard: counts the steps that are skipped because a loss or a gradient was not finite.
    """

    clip_norm: float | None
    guard: SkipGuard

    @override
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        loss, finite = self.backpropagate(closure)
        self.move(finite)
        return loss

    def backpropagate(self, closure: Closure | None) -> tuple[Tensor, Tensor]:
        """Fill the gradients; return the loss [] and whether it and they are finite, bool []."""
        return backpropagate(self, closure, self.clip_norm)

    def move(self, finite: Tensor) -> None:
        """Move the weights against the gradients if they are finite; finding out waits for the device."""
        self.guard.watch(finite)
        if finite:
            with phase("update"), torch.no_grad():
                self.update()

    @abstractmethod
    def update(self) -> None:
        """Move the weights against the gradients."""


class BackpropSGD(FirstOrderOptimizer, SGD):
    """theta <- theta - lr (gradient + momentum's memory); weight decay is decoupled from the gradient.

    State: one number a parameter with momentum, none without.

    Args:
        model: the model whose trainable parameters are optimised.
        lr: learning rate.
        momentum: decay of the running sum of gradients.
        weight_decay: decoupled weight decay; parameters of one dimension are exempt.
        clip_norm: the largest norm of the whole gradient, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        groups = decay_groups(model.parameters(), weight_decay)
        for group in groups:
            group["decoupled_decay"] = group.pop("weight_decay")  # torch's own would go into the gradient.
        SGD.__init__(self, groups, lr=lr, momentum=momentum)
        _begin_sharded(self, ("momentum_buffer",) if momentum else ())
        self.clip_norm = clip_norm
        self.guard = SkipGuard(self)

    @override
    def update(self) -> None:
        for group in self.param_groups:
            if group["decoupled_decay"]:
                for parameter in group["params"]:
                    parameter.mul_(1.0 - group["lr"] * group["decoupled_decay"])
        SGD.step(self)


class BackpropAdamW(FirstOrderOptimizer, AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101); plain Adam where the decay is zero.

    State: two numbers a parameter.

    Args:
        model: the model whose trainable parameters are optimised.
        lr: learning rate.
        betas: decay of the first and second moment.
        adam_eps: added to the root of the second moment.
        weight_decay: decoupled weight decay; parameters of one dimension are exempt.
        clip_norm: the largest norm of the whole gradient, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        AdamW.__init__(self, decay_groups(model.parameters(), weight_decay), lr=lr, betas=betas, eps=adam_eps)
        _begin_sharded(self, ("exp_avg", "exp_avg_sq"))
        self.clip_norm = clip_norm
        self.guard = SkipGuard(self)

    @override
    def update(self) -> None:
        AdamW.step(self)


def _begin_sharded(optimizer: Optimizer, names: Sequence[str]) -> None:
    """Make the state of sharded parameters, which must be there from the start to be loaded in shards."""
    parameters: list[nn.Parameter] = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not any(map(is_sharded, parameters)):
        return
    for parameter in parameters:
        state = optimizer.state[parameter]
        state["step"] = torch.zeros(())
        state.update({name: torch.zeros_like(parameter) for name in names})
