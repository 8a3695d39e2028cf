"""Checkpoints: the best weights by a dev metric, and the last state, both written at the end of each validation.

Two callbacks, because Lightning's `save_last` is written only when a validation sets a new best: after a long plateau a
resumed run would start from far back. Other triggers are left unset: under manual optimisation they would rank new
weights by the previous validation's score.
"""

from __future__ import annotations

from typing import Literal

from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps `checkpoints/best.ckpt`, the weights with the best dev metric.

    Args:
        monitor: the metric that selects, computed on dev.
        mode: whether it is to be large or small.
    """

    def __init__(self, monitor: str = "val/accuracy", mode: Literal["max", "min"] = "max") -> None:
        super().__init__(filename="best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False)


class LastCheckpoint(ModelCheckpoint):
    """Keeps `checkpoints/last.ckpt`, from which `--ckpt_path last` resumes."""

    def __init__(self) -> None:
        super().__init__(filename="last", save_top_k=1, enable_version_counter=False)
