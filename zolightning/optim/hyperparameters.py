"""The numbers that all zeroth-order methods share, and their ranges."""

from __future__ import annotations

import math

from zolightning.errors import ConfigurationError


def check_hyperparameters(*, lr: float, eps: float, num_queries: int = 1, weight_decay: float = 0.0) -> None:
    """Check the numbers that all zeroth-order methods share.

    Raises:
        ConfigurationError: if a number is out of its range.
    """
    if not 0 <= lr < math.inf:
        raise ConfigurationError(f"lr must be a number from 0 on, got {lr}")
    if not 0 < eps < math.inf:
        raise ConfigurationError(f"eps, the smoothing parameter, must be a positive number, got {eps}; 1e-3 is usual")
    if not isinstance(num_queries, int) or num_queries < 1:
        raise ConfigurationError(f"num_queries must be a whole number from 1 on, got {num_queries}")
    if not 0 <= weight_decay < math.inf:
        raise ConfigurationError(f"weight_decay must be a number from 0 on, got {weight_decay}")
