"""Whether a model may compute a prompt once for all its options, side by side in one sequence."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from zolightning.models.batch import OptionBatch, collate
from zolightning.models.loading import max_positions
from zolightning.models.question import Example
from zolightning.models.scoring import token_log_likelihoods

# The attention implementations that add whatever mask they are given; others read it as one of padding, or crash.
_MASKED = ("sdpa", "eager")
_WINDOWS = ("sliding_window", "attention_chunk_size")
# As a share of what the mask changes: above the noise of rounding, below what a token out of its place would do.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.3}


class PromptSharing:
    """Finds out whether a model computes the same with a prompt's options side by side as with each on its own.

    It must take a mask of four dimensions and positions, which some models ignore and others refuse, and mix tokens by
    attention alone. As no list of those that do would be complete, two of the examples are scored both ways, once, and
    again when longer ones come.

    Args:
        model: A causal language model. Its weights may change later: what it computes from them does not.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        config = cast("Any", model).config
        text = config.get_text_config().to_dict()
        spans = [max_positions(config), *(text.get(name) for name in _WINDOWS)]
        # A mask of ours would undo a window, and some models mask by a token's index, whatever its position.
        self._limit = min((span for span in spans if span), default=sys.maxsize)
        self._attention: str = config._attn_implementation
        self._shares = True
        self._tried = 0

    def row_limit(self, examples: Sequence[Example]) -> int:
        """The longest sequence that may hold a prompt with several options, 0 where none of these examples' may.

        Give it to :func:`~zolightning.models.batch.collate`. It runs forwards, in evaluation mode, so call it where
        nobody counts them: outside of a step.

        Raises:
            ConfigurationError: If the model has no output embeddings, or does not call them as a module.
        """
        rows = {example.row: example for example in examples if len(example.tails) > 1 and example.row <= self._limit}
        if not rows or not self._shares:
            return 0
        if max(rows) > self._tried:
            self._tried = max(rows)
            self._shares = self._agrees([rows[row] for row in sorted({min(rows), max(rows)})])
            if not self._shares:
                rank_zero_info(
                    f"{type(self.model).__name__} with {self._attention} attention does not compute options side by "
                    "side as it does apart: each option is read with a prompt of its own"
                )
        return self._limit if self._shares else 0

    def _agrees(self, examples: Sequence[Example]) -> bool:
        if self._attention not in _MASKED:
            return False
        apart = [
            Example(example.prompt, [continuation], [start], answer=0)
            for example in examples
            for continuation, start in zip(example.continuations, example.starts, strict=True)
        ]
        together = collate(examples, row_limit=self._limit)
        with _calm(self.model):
            expected = torch.cat([self._score(collate([option])) for option in apart])
            unmasked = self._score(replace(together, segments=None))
            try:
                got = self._score(together)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # However a model says that it cannot, it need not.
                return False
        allowed = _TOLERANCE[cast("Any", self.model).dtype] * (unmasked - expected).norm()
        return bool((got - expected).norm() <= allowed)

    def _score(self, batch: OptionBatch) -> Tensor:
        """The log-likelihood of each option token that there is, option after option [tokens]."""
        batch = batch.to(next(self.model.parameters()).device)
        return token_log_likelihoods(self.model, batch)[batch.scored]


@contextmanager
def _calm(model: nn.Module) -> Iterator[None]:
    """No gradients, no dropout, and no warnings of what was only a question."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for module, training in modes:
            module.training = training
