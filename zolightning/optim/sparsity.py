"""Which weights a sparse method perturbs: a fraction of each tensor, by a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn

from zolightning.errors import ConfigurationError, check_choice
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.masks import Score, Selection, kept, ranks_by_zero, select_smallest
from zolightning.perturbation.noise import Stream
from zolightning.perturbation.rounding import wide
from zolightning.perturbation.shards import local_part


@dataclass(frozen=True)
class Sparsity:
    """A rule that picks a fraction of each weight tensor.

    Args:
        keep_ratio: the fraction of each tensor's elements that is perturbed and updated, in (0, 1]; its complement
            1 - keep_ratio is what papers call sparsity.
        score: `magnitude` keeps the smallest weights, `large` the largest, `random` random ones, `snip` those of the
            largest |theta df/dtheta| (SNIP, Lee et al., arXiv 1810.02340). To pick them takes a pass or more over
            the weights and waits for the device; `snip` takes a forward and a backward of a batch, with the memory of a
            first-order step's activations and gradients.
        mask_vectors: whether one-dimensional parameters (biases, norms) are masked too, or stay dense.
        resample_every: steps after which the fraction is picked anew, or None to stay with the first.

    Raises:
        ConfigurationError: if `keep_ratio` lies outside (0, 1], or `resample_every` is below 1.
    """

    keep_ratio: float
    score: Score = "magnitude"
    mask_vectors: bool = False
    resample_every: int | None = None

    def __post_init__(self) -> None:
        """Check the score and the numbers."""
        check_choice("mask", self.score, get_args(Score))
        if not 0.0 < self.keep_ratio <= 1.0:
            raise ConfigurationError(
                f"keep_ratio is the fraction of weights to perturb and must lie in (0, 1], got {self.keep_ratio}"
            )
        if self.resample_every is not None and self.resample_every < 1:
            raise ConfigurationError(f"resample_every must be at least 1, or null, got {self.resample_every}")

    @property
    def moves_with_weights(self) -> bool:
        """Whether the mask is made anew from the weights at every probe and update."""
        return self.score in {"magnitude", "large"}

    def begun(self, step: int) -> int:
        """Return the step at which the mask that is in force at a step was picked."""
        return 0 if self.resample_every is None else step // self.resample_every * self.resample_every

    def covers(self, parameter: nn.Parameter) -> bool:
        """Return whether a parameter is masked at all."""
        return parameter.ndim >= 2 or self.mask_vectors

    def select(
        self, parameter: nn.Parameter, stream: Stream, compiler: Compiler, gradient: Tensor | None = None
    ) -> Selection | None:
        """Find a parameter's selection from its weights as they are now, or None where it is dense.

        A tensor with so many zeros that its threshold is zero has no magnitudes to go by, and is dense. The mask of
        `snip` is kept, one bit a weight; a tensor of which every theta df/dtheta is zero, as adapters that start at
        zero, goes by |df/dtheta|. Elements that are equal are taken in the order of their indices.

        Args:
            parameter: the weights.
            stream: the parameter's stream in the mask lane.
            compiler: runs the generator of random masks compiled or eager.
            gradient: of the loss, of the weights' shape, for `snip`.
        """
        if not self.covers(parameter):
            return None
        part = local_part(parameter)
        count = min(max(round(self.keep_ratio * part.size), 1), part.size)
        if self.score == "snip":
            assert gradient is not None
            slope = wide(gradient.reshape(-1))
            saliency = slope * part.flat
            saliency = saliency if saliency.any() else slope
            return kept(select_smallest("large", saliency, count, stream), saliency)
        selection = select_smallest(self.score, part, count, stream, compiler)
        # A threshold of zero, as adapters that start at zero have it, would freeze each weight after its first move.
        return None if ranks_by_zero(selection, parameter.dtype) else selection


def sparsity_of(mask: Score | None, sparsity: float | None, resample_every: int | None) -> Sparsity | None:
    """Return the rule of a recipe that states a mask, or None where it states none.

    Args:
        mask: the score, or None.
        sparsity: the fraction of each weight tensor that stays still, in [0, 1).
        resample_every: steps after which the fraction is picked anew, or None.

    Raises:
        ConfigurationError: if a number is out of its range, or one of `mask` and `sparsity` lacks the other.
    """
    if mask is None:
        if sparsity is not None or resample_every is not None:
            raise ConfigurationError(
                f"sparsity={sparsity} and resample_every={resample_every} say how much to mask and when: set mask to "
                f"one of {', '.join(get_args(Score))}"
            )
        return None
    if sparsity is None or not 0.0 <= sparsity < 1.0:
        raise ConfigurationError(
            f"mask: {mask} needs sparsity, the fraction of weights that stay still, in [0, 1); got {sparsity}"
        )
    return Sparsity(1.0 - sparsity, mask, resample_every=resample_every)
