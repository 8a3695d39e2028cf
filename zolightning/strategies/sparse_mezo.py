"""Sparse-MeZO: zeroth-order steps on the small weights only."""

from __future__ import annotations

from zolightning.optim.estimators import Sides
from zolightning.optim.sparsity import Sparsity
from zolightning.perturbation.masks import Score
from zolightning.perturbation.options import DEFAULT, EngineOptions
from zolightning.strategies.base import Card
from zolightning.strategies.zo_sgd import ZOSGD


class SparseMeZO(ZOSGD):
    """MeZO on a dynamic mask of small weights: theta <- theta - lr (1/q) sum_i g_i (m z_i), m = [|theta| <= h].

    Liu et al., NeurIPS 2025, arXiv 2402.15751, algorithm 1. 2q forwards a step, no mask is stored: thresholds h, one a
    weight tensor, are found at the start of training so that exactly the fraction `keep_ratio` of smallest magnitudes
    lies at or below h; the mask is made anew from the true weights at every probe and update (the paper's S-MeZO-EI).
    Magnitudes equal to h are taken in index order, so that the fraction is exact in half precision too.

    The paper gives "sparsity" and never says which way it counts. Here, as in its open re-implementations,
    keep_ratio = 1 - sparsity is the fraction that is perturbed: its best sparsity of 0.8 is `keep_ratio: 0.2`.
    Algorithm 1 prints theta <= h; its text says small magnitudes, so |theta| <= h. Biases and norms, of which it does
    not speak, stay dense unless `mask_vectors` is set.

    Args:
        lr: learning rate; sparse directions bear a larger one than MeZO's.
        eps: smoothing parameter; 1e-3 is usual.
        keep_ratio: the fraction of each weight tensor that is perturbed, in (0, 1].
        mask: which weights: `magnitude` the small ones, `random` random ones (the paper's R-MeZO), `large` the large,
            `snip` those of the largest |theta df/dtheta|, which takes a backward pass and its memory.
        mask_vectors: whether biases and norms are masked too.
        num_queries: directions a step; the estimate is their mean.
        weight_decay: decoupled weight decay of the selected weights; biases and norms are exempt.
        estimator: `two_sided` differences, of 2q forwards, or `one_sided`, of q + 1.
        resample_every: steps after which the thresholds are found anew; null, as in the paper, for never.
        engine: how directions are drawn, weights probed and updates rounded; see `EngineOptions`.

    Raises:
        ConfigurationError: if keep_ratio lies outside (0, 1], lr or weight_decay is negative, eps is not positive, or
            num_queries is below 1.
    """

    card = Card(
        update="the same on the weights with |theta| <= h",
        forwards="2q; q + 1 one-sided",
        state="a threshold a tensor",
        paper="Sparse-MeZO, 2402.15751",
    )

    def __init__(
        self,
        lr: float,
        eps: float,
        keep_ratio: float,
        mask: Score = "magnitude",
        mask_vectors: bool = False,
        num_queries: int = 1,
        weight_decay: float = 0.0,
        estimator: Sides = "two_sided",
        resample_every: int | None = None,
        engine: EngineOptions = DEFAULT,
    ) -> None:
        super().__init__(lr, eps, num_queries, weight_decay, estimator, engine=engine)
        self.sparse = Sparsity(keep_ratio, mask, mask_vectors, resample_every)
