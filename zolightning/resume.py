"""What a checkpoint must share with the run that takes it up."""

from __future__ import annotations

from typing import Any

from zolightning.errors import ConfigurationError

KEY = "zolightning"


def record_of(checkpoint: dict[str, Any], scheme: str) -> dict[str, Any]:
    """Return what a FineTuner noted in a checkpoint.

    Raises:
        ConfigurationError: if the checkpoint is not a FineTuner's, or of another scheme: its weights would not fit.
    """
    saved: dict[str, Any] | None = checkpoint.get(KEY)
    if saved is None:
        raise ConfigurationError("ckpt_path: this is no checkpoint of a FineTuner")
    if saved["scheme"] != scheme:
        raise ConfigurationError(
            f"ckpt_path: the checkpoint has model.scheme={saved['scheme']}, this run {scheme}: set the former"
        )
    return saved


def check_continuation(saved: dict[str, Any], strategy: str, dtype: str, step: int, max_steps: int) -> None:
    """Check that training can go on from a checkpoint.

    Raises:
        ConfigurationError: if the strategy or the dtype is another, or the run is already complete.
    """
    if saved["strategy"] != strategy:
        raise ConfigurationError(
            f"ckpt_path: the checkpoint is of strategy {saved['strategy']}, which {strategy} cannot go on from; to "
            "start from its weights, set model.backbone to the best/ folder of its run"
        )
    if saved["dtype"] != dtype:
        raise ConfigurationError(
            f"ckpt_path: the checkpoint has model.dtype={saved['dtype']}, this run {dtype}: set the former"
        )
    if 0 < max_steps <= step:
        raise ConfigurationError(
            f"ckpt_path: the run is complete at step {step}; to go on, raise trainer.max_steps, now {max_steps}"
        )
