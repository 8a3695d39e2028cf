"""First-order optimizers with the same `step(closure)`: forward, backward, clipping and update in one call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.optim.estimators import Closure
from zolightning.optim.groups import decay_groups
from zolightning.optim.guard import SkipGuard
from zolightning.perturbation.phases import phase
from zolightning.perturbation.rounding import wide


def backpropagate(optimizer: Optimizer, closure: Closure | None, clip_norm: float | None) -> tuple[Tensor, Tensor]:
    """Fill the gradients of an optimizer's parameters, and return the loss [] and whether it and they are finite [].

    Args:
        optimizer: holds the parameters.
        closure: returns the loss [] with its graph. A closure that has split its batch may call backward on each part
            itself and return the total without a graph.
        clip_norm: the largest norm of the whole gradient, or None.

    Raises:
        ConfigurationError: if no closure is given.
    """
    if closure is None:
        raise ConfigurationError("a first-order step needs a closure that returns the loss: optimizer.step(closure)")
    optimizer.zero_grad(set_to_none=True)
    with phase("probe"), torch.enable_grad():
        loss = closure()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return wide(loss.detach()), torch.isfinite(loss.detach()) & torch.isfinite(norm)


def guarded_step(
    optimizer: Optimizer,
    closure: Closure | None,
    clip_norm: float | None,
    guard: SkipGuard,
    update: Callable[[], object],
) -> Tensor:
    """Backpropagate, and call `update` if all is finite; finding out waits for the device. Return the loss []."""
    loss, finite = backpropagate(optimizer, closure, clip_norm)
    guard.watch(finite)
    if finite:
        with phase("update"), torch.no_grad():
            update()
    return loss


class BackpropSGD(SGD):
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
        super().__init__(groups, lr=lr, momentum=momentum)
        self.clip_norm = clip_norm
        self.guard = SkipGuard(self)

    @override
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        return guarded_step(self, closure, self.clip_norm, self.guard, self._move)

    def _move(self) -> None:
        for group in self.param_groups:
            if group["decoupled_decay"]:
                for parameter in group["params"]:
                    parameter.mul_(1.0 - group["lr"] * group["decoupled_decay"])
        super().step()


class BackpropAdamW(AdamW):
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
        super().__init__(decay_groups(model.parameters(), weight_decay), lr=lr, betas=betas, eps=adam_eps)
        self.clip_norm = clip_norm
        self.guard = SkipGuard(self)

    @override
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        return guarded_step(self, closure, self.clip_norm, self.guard, super().step)
