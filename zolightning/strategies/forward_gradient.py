"""Forward gradient: directional derivatives by forward-mode differentiation, instead of differences."""

from __future__ import annotations

import logging

import torch
from torch.optim import Optimizer
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.optim.estimators import Closure, Estimator, forward_mode
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.perturbation.masks import Score
from zolightning.perturbation.options import DEFAULT, EngineOptions
from zolightning.strategies.base import Card
from zolightning.strategies.zeroth_order import ZerothOrder

log = logging.getLogger(__name__)

# No direction is stepped along: only the check that modules read their own weights takes a probe.
_EPS = 1e-3


class ForwardGradient(ZerothOrder):
    """theta <- theta - lr (1/q) sum_i g_i z_i, g_i = <grad f(theta), z_i>, by forward-mode differentiation.

    Baydin et al., arXiv 2202.08587; Forward-Grad in ZO-Bench (arXiv 2402.11592). q forwards with tangents a step, each
    of which takes two to three times a forward's work and twice its activations; no state. Tangents of weights are made
    where they are read, not stored. Attention runs as plain matrix products meanwhile: its fused kernels have no
    forward derivative. Tangents have the weights' dtype; float16 overflows easily.

    Args:
        lr: learning rate.
        num_queries: directions a step; the estimate is their mean.
        weight_decay: decoupled weight decay; biases and norms are exempt.
        mask: which weights are perturbed and updated: `random` ones, small ones (`magnitude`), `large` ones, or
            those of the largest |theta df/dtheta| (`snip`, which takes a backward pass and its memory when it picks);
            null for all.
        sparsity: with a mask, the fraction of each weight tensor that stays still, in [0, 1).
        resample_every: steps after which a mask is picked anew; null for never.
        engine: how directions are drawn and updates rounded; see `EngineOptions`.

    Raises:
        ConfigurationError: if lr or weight_decay is negative, num_queries is below 1, a mask is not whole, or
            engine.probe is not `in_forward`.
    """

    card = Card(
        update="theta - lr ghat, with g = <grad f(theta), z>",
        forwards="q, with tangents",
        state="none",
        paper="Forward gradient, 2202.08587",
    )

    def __init__(
        self,
        lr: float,
        num_queries: int = 1,
        weight_decay: float = 0.0,
        mask: Score | None = None,
        sparsity: float | None = None,
        resample_every: int | None = None,
        engine: EngineOptions = DEFAULT,
    ) -> None:
        super().__init__(lr, _EPS, num_queries, weight_decay, "two_sided", mask, sparsity, resample_every, engine)
        if engine.probe != "in_forward":
            raise ConfigurationError(
                f"ForwardGradient moves no weights to probe them, so engine.probe: {engine.probe} means nothing: leave "
                "it at in_forward"
            )

    @property
    @override
    def needs_gradient(self) -> bool:
        return True

    @override
    def estimator(self) -> Estimator:
        return forward_mode

    @override
    @torch.no_grad()
    def check(self, optimizer: Optimizer, closure: Closure) -> None:
        """Let one probe and one derivative show that the model suits the method."""
        super().check(optimizer, closure)
        if not isinstance(optimizer, ZerothOrderOptimizer):
            return
        try:
            forward_mode(optimizer, closure, 1)
        # So torch says that an operation has no forward derivative; its other errors are not of this kind.
        except NotImplementedError as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise ConfigurationError(
                f"the model cannot be differentiated forward ({reason}): set model.attention: eager; in the "
                "configuration of a mixture of experts experts_implementation: eager; or use a strategy that probes, "
                "such as ZOSGD"
            ) from error
        # A warning, because nobody who steps without Lightning has set up to be told less.
        log.warning("ForwardGradient: attention runs as plain matrix products, which have a forward derivative")
