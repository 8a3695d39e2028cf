"""What the tests ask of each process: to train the sample model, and to say what has become of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer

from zolightning import FineTuner
from zolightning.strategies import Strategy
from zolightning.tasks import SampleReviews

Weights = dict[str, np.ndarray[Any, Any]]


class Outcome(NamedTuple):
    """What a run came to."""

    weights: Weights
    metrics: dict[str, float]
    forward_passes: int


def task(**settings: Any) -> SampleReviews:
    """Return the sample's task: batches of 8, of which one in six has 4 examples."""
    return SampleReviews(**{"batch_size": 8, "num_train": 44, "num_dev": 21, "num_test": 21, **settings})


def trainer(processes: int, **settings: Any) -> Trainer:
    """Return a Trainer that says nothing and leaves nothing behind."""
    return Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="auto" if processes == 1 else "zo_ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def train(
    processes: int, strategy: Strategy, steps: int = 30, data: dict[str, Any] | None = None, **settings: Any
) -> Outcome:
    """Train, and validate at the end."""
    module = FineTuner(backbone="sample", strategy=strategy, **{"seed": 0, **settings})
    running = trainer(processes, max_steps=steps)
    running.fit(module, datamodule=task(**(data or {})))
    metrics = {name: float(value) for name, value in running.callback_metrics.items()}
    return Outcome(weights_of(module.network), metrics, module.forward_passes)


def weights_of(model: torch.nn.Module) -> Weights:
    """Return a model's weights by name."""
    return {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}
