"""Fine-tuning of language models with forward passes only, at the memory of inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zolightning.finetuner import FineTuner

__version__ = "0.1.0"
__all__ = ("FineTuner", "__version__")


def __getattr__(name: str) -> object:
    """Import the LightningModule on first use, so that the optimizers work where Lightning is not installed."""
    if name == "FineTuner":
        from zolightning.finetuner import FineTuner

        return FineTuner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
