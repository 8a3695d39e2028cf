"""What all zeroth-order strategies share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from zolightning.errors import ConfigurationError, check_choice
from zolightning.optim.blocks import Blocks
from zolightning.optim.estimators import ESTIMATORS, Closure, Estimator, Sides
from zolightning.optim.hyperparameters import check_hyperparameters
from zolightning.optim.sparsity import sparsity_of
from zolightning.optim.updates import Linear, Update
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.perturbation.masks import Score
from zolightning.perturbation.options import DEFAULT, EngineOptions
from zolightning.strategies.base import Strategy


class ZerothOrder(Strategy):
    """Base of strategies that use forward passes only.

    A subclass overrides `update`, which returns what moves the weights, or `estimator`, which returns what the update
    goes by; or `configure_optimizer`, for an optimizer of its own.

    Args:
        lr: learning rate; for plain MeZO the papers use 1e-6 or 1e-7 on models of billions of weights.
        eps: smoothing parameter: how far the probes step along a direction; 1e-3 is usual.
        num_queries: directions a step; the estimate is their mean.
        weight_decay: decoupled weight decay; biases and norms are exempt.
        estimator: `two_sided` differences, of 2q forwards, or `one_sided`, of q + 1.
        mask: which weights are perturbed and updated: `random` ones, small ones (`magnitude`), `large` ones, or
            those of the largest |theta df/dtheta| (`snip`, which takes a backward pass and its memory when it picks);
            null for all.
        sparsity: with a mask, the fraction of each weight tensor that stays still, in [0, 1).
        resample_every: steps after which a mask is picked anew; null for never.
        engine: how directions are drawn, weights probed and updates rounded; see `EngineOptions`.

    Raises:
        ConfigurationError: if lr or weight_decay is negative, eps is not positive, or num_queries is below 1.
    """

    def __init__(
        self,
        lr: float,
        eps: float,
        num_queries: int = 1,
        weight_decay: float = 0.0,
        estimator: Sides = "two_sided",
        mask: Score | None = None,
        sparsity: float | None = None,
        resample_every: int | None = None,
        engine: EngineOptions = DEFAULT,
    ) -> None:
        check_hyperparameters(lr=lr, eps=eps, num_queries=num_queries, weight_decay=weight_decay)
        check_choice("estimator", estimator, tuple(ESTIMATORS))
        self.lr = lr
        self.eps = eps
        self.num_queries = num_queries
        self.weight_decay = weight_decay
        self.sides = estimator
        self.engine = engine
        self.sparse = sparsity_of(mask, sparsity, resample_every)
        self.blocks: Blocks | None = None

    def estimator(self) -> Estimator:
        """Return what makes projected gradients of losses; by default differences of losses, as `estimator` says."""
        return ESTIMATORS[self.sides]

    def update(self) -> Update:
        """Return what moves the weights; by default theta <- theta - lr (1/q) sum_i g_i z_i."""
        return Linear()

    @override
    def configure_optimizer(self, model: nn.Module, seed: int) -> ZerothOrderOptimizer:
        return ZerothOrderOptimizer(
            model,
            lr=self.lr,
            eps=self.eps,
            num_queries=self.num_queries,
            weight_decay=self.weight_decay,
            seed=seed,
            sparsity=self.sparse,
            estimator=self.estimator(),
            update=self.update(),
            blocks=self.blocks,
            engine=self.engine,
        )

    @property
    @override
    def needs_gradient(self) -> bool:
        return self.sparse is not None and self.sparse.score == "snip"

    @override
    def setup(self, model: nn.Module) -> None:
        """Turn dropout off: the two probes of a direction must differ by the direction alone."""
        model.eval()

    @override
    def check(self, optimizer: Optimizer, closure: Closure) -> None:
        """Let one probe show that perturbing weights inside their modules reaches all of the loss."""
        if isinstance(optimizer, ZerothOrderOptimizer):
            optimizer.check(closure)

    @override
    def metrics(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return the mean projected gradient of the last step."""
        last = optimizer.last if isinstance(optimizer, ZerothOrderOptimizer) else None
        return {} if last is None else {"projected_grad": last.projected_gradients.mean()}

    @override
    def skipped(self, optimizer: Optimizer) -> Tensor | None:
        return optimizer.guard.counts if isinstance(optimizer, ZerothOrderOptimizer) else None


def check_zeroth_order(name: str, method: object) -> None:
    """Refuse a method that cannot be one part of another.

    Raises:
        ConfigurationError: if it is no ZerothOrder strategy.
    """
    if not isinstance(method, ZerothOrder):
        raise ConfigurationError(
            f"{name} must be a ZerothOrder strategy, such as ZOSGD or ZOAdam, got {type(method).__name__}"
        )
