"""Running the real command line in the test's process, on the embedded sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from zolightning.cli import main

STRATEGIES: dict[str, dict[str, Any]] = {
    "ZOSGD": {"lr": 1e-4, "eps": 1e-3},
    "SparseMeZO": {"lr": 1e-4, "eps": 1e-3, "keep_ratio": 0.2},
    "ZOSGDSign": {"lr": 1e-4, "eps": 1e-3},
    "ZOSGDMomentum": {"lr": 1e-5, "eps": 1e-3},
    "ZOSGDConservative": {"lr": 1e-4, "eps": 1e-3},
    "ZOAdam": {"lr": 1e-4, "eps": 1e-3},
    "ForwardGradient": {"lr": 1e-4},
    "BlockwiseZO": {"method": {"class_path": "ZOSGD", "init_args": {"lr": 1e-4, "eps": 1e-3}}},
    "HybridZOFO": {
        "zeroth": {"class_path": "ZOSGD", "init_args": {"lr": 1e-4, "eps": 1e-3}},
        "first": {"class_path": "FOAdam", "init_args": {"lr": 1e-4}},
    },
    "FOSGD": {"lr": 1e-3},
    "FOAdam": {"lr": 1e-4},
}

# Forwards of a step: two of each query, three candidates more, and two for each of the sample model's six blocks.
FORWARDS = {"ZOSGDConservative": 5, "ForwardGradient": 1, "BlockwiseZO": 12, "HybridZOFO": 3, "FOSGD": 1, "FOAdam": 1}


def recipe(folder: Path, strategy: str = "ZOSGD", **trainer: object) -> Path:
    """Write a small recipe on the sample into a folder: 6 batches an epoch, validation every 4 steps."""
    config = {
        "seed_everything": 0,
        "model": {
            "backbone": "sample",
            "strategy": {"class_path": strategy, "init_args": dict(STRATEGIES.get(strategy, {}))},
        },
        "data": {
            "class_path": "SampleReviews",
            "init_args": {"batch_size": 8, "num_train": 44, "num_dev": 24, "num_test": 24},
        },
        "trainer": {
            "max_steps": 10,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 2,
            "enable_model_summary": False,
            "default_root_dir": str(folder / "runs"),
            "accelerator": "cpu",
            **trainer,
        },
    }
    path = folder / f"{strategy}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def fit(config: Path, *flags: str) -> Path:
    """Run `fit` and return the newest run's folder."""
    main(["fit", "--config", str(config), *flags])
    return newest(config.parent / "runs")


def newest(root: Path) -> Path:
    """Return the folder of the run that was begun last."""
    return max(root.glob("version_*"), key=lambda path: int(path.name.removeprefix("version_")))


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return every TensorBoard curve of a run as (step, value) pairs by tag."""
    events = EventAccumulator(str(run)).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def texts(run: Path) -> list[str]:
    """Return the tags of the texts that a run logged."""
    events = EventAccumulator(str(run)).Reload()
    tags: list[str] = events.Tags()["tensors"]
    return tags


def weights(checkpoint: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by name."""
    state: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state
