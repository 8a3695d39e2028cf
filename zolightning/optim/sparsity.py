"""Which weights a sparse method perturbs, decided from thresholds that are found once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zolightning.errors import ConfigurationError
from zolightning.perturbation.masks import Score, Selection, ranks_by_zero, select_smallest
from zolightning.perturbation.noise import Stream


@dataclass(frozen=True)
class Sparsity:
    """A rule that picks a fraction of each weight tensor.

    Args:
        keep_ratio: the fraction of each tensor's elements that is perturbed and updated, in (0, 1]; its complement
            1 - keep_ratio is what papers call sparsity.
        score: `magnitude` keeps the smallest weights, `large` the largest, `random` random ones.
        mask_vectors: whether one-dimensional parameters (biases, norms) are masked too, or stay dense.

    Raises:
        ConfigurationError: if `keep_ratio` lies outside (0, 1].
    """

    keep_ratio: float
    score: Score = "magnitude"
    mask_vectors: bool = False

    def __post_init__(self) -> None:
        """Check the fraction."""
        if not 0.0 < self.keep_ratio <= 1.0:
            raise ConfigurationError(
                f"keep_ratio is the fraction of weights to perturb and must lie in (0, 1], got {self.keep_ratio}"
            )

    def select(self, parameter: nn.Parameter, stream: Stream) -> Selection | None:
        """Find a parameter's selection from its weights as they are now, or None where it is dense.

        A tensor with so many zeros that its threshold is zero has no magnitudes to go by, and is dense.

        Args:
            parameter: the weights.
            stream: the parameter's stream in the mask lane.
        """
        if parameter.ndim < 2 and not self.mask_vectors:
            return None
        flat = parameter.detach().reshape(-1)
        count = min(max(round(self.keep_ratio * flat.numel()), 1), flat.numel())
        selection = select_smallest(self.score, flat, count, stream)
        # A threshold of zero, as adapters that start at zero have it, would freeze each weight after its first move.
        return None if ranks_by_zero(selection, flat) else selection
