"""Queries that are divided among ranks: each probes a part of a step's directions, and all learn what was found."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from zolightning.errors import ConfigurationError
from zolightning.optim.estimators import Closure, Estimate, Estimator, Prober
from zolightning.optim.ranks import Ranks

if TYPE_CHECKING:
    from zolightning.optim.zeroth_order import ZerothOrderOptimizer


@dataclass(frozen=True)
class SharedQueries:
    """An estimator of which each rank runs a part, on the data of its own closure.

    Every rank returns the same estimate, whose projected gradients stand in the order of the queries: of the same data
    they have the bits that one process finds. One collective, of scalars: a number a query and two or three more.

    Args:
        estimator: the whole.
        ranks: of which each takes as many queries as any other, the first of them the first.
    """

    estimator: Estimator
    ranks: Ranks

    def __call__(self, prober: Prober, closure: Closure, num_queries: int) -> Estimate:
        """Run this rank's part, and gather what all have found."""
        first, end = self.ranks.bounds(num_queries)
        own = self.estimator(_From(prober, first), closure, end - first)
        scalars = [own.loss, own.finite.to(own.loss.dtype)] + ([] if own.here is None else [own.here])
        found = self.ranks.gather(torch.cat([torch.stack(scalars), own.projected_gradients]))
        finite = (found[:, 1] == 1).all()
        projected = torch.where(finite, found[:, len(scalars) :].flatten(), 0.0)
        here = None if own.here is None else found[:, 2].mean()
        return Estimate(found[:, 0].mean(), projected, finite, here)

    def check(self, optimizer: ZerothOrderOptimizer) -> None:
        """Check that an optimizer's queries can be divided.

        Raises:
            ConfigurationError: if their number is no multiple of the number of ranks; or with in-place probes or
                `mask: snip`, with which ranks that probe apart would not keep the same weights.
        """
        size, queries = self.ranks.size, optimizer.num_queries
        if queries % size:
            raise ConfigurationError(
                f"num_queries={queries} cannot be divided among {size} processes: set it to a multiple of {size}, such "
                f"as {-(-queries // size) * size}, or model.ranks to data"
            )
        if optimizer.engine.options.probe == "in_place":
            raise ConfigurationError(
                "engine.probe: in_place leaves in the weights the rounding of the queries that a process itself has "
                "probed, so that processes would drift apart: use engine.probe: in_forward, or model.ranks: data"
            )
        if optimizer.sparsity is not None and optimizer.sparsity.score == "snip":
            raise ConfigurationError(
                "mask: snip goes by the gradient of the whole batch, of which with model.ranks: queries each process "
                "has a part: use model.ranks: data, or another mask"
            )


@dataclass(frozen=True)
class _From:
    """Probes as another does, with its queries numbered from one of them on."""

    prober: Prober
    first: int

    @property
    def eps(self) -> float:
        return self.prober.eps

    def probe(self, query: int, scale: float) -> AbstractContextManager[None]:
        return self.prober.probe(self.first + query, scale)

    def differentiate(self, query: int) -> AbstractContextManager[None]:
        return self.prober.differentiate(self.first + query)
