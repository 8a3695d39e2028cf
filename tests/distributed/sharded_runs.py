"""What the tests ask of each process: to train the sample model with its weights sharded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from tests.helpers.ranks import in_ranks
from zolightning import FineTuner
from zolightning.callbacks import BestCheckpoint, Export, Journal, LastCheckpoint
from zolightning.strategies import (
    FOSGD,
    ZOSGD,
    BlockwiseZO,
    FOAdam,
    ForwardGradient,
    SparseMeZO,
    Strategy,
    ZOAdam,
)
from zolightning.tasks import SampleReviews

STEPS = 30

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "ZOSGD": lambda: ZOSGD(1e-4, 1e-3),
    "ZOAdam": lambda: ZOAdam(1e-4, 1e-3),
    "SparseMeZO": lambda: SparseMeZO(1e-4, 1e-3, 0.2),
    "BlockwiseZO": lambda: BlockwiseZO(ZOSGD(1e-4, 1e-3)),
    "ForwardGradient": lambda: ForwardGradient(1e-4),
    "FOSGD": lambda: FOSGD(1e-3, momentum=0.9, clip_norm=1.0),
    "plain FOSGD": lambda: FOSGD(1e-3),
    "FOAdam": lambda: FOAdam(1e-4, clip_norm=1.0),
}


def fit(
    name: str, folder: Path, *, steps: int = STEPS, devices: int = 1, layout: str = "auto", resume: bool = False
) -> dict[str, Tensor]:
    """Train, and return the weights that the module ends with, whole."""
    module = FineTuner("sample", STRATEGIES[name](), seed=0)
    callbacks: list[Callback] = [BestCheckpoint("val/loss"), LastCheckpoint(), Journal(every_steps=4), Export()]
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=layout,
        max_steps=steps,
        val_check_interval=STEPS // 2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    task = SampleReviews(batch_size=8, num_train=44, num_dev=16, num_test=8)
    trainer.ckpt_path = folder / "checkpoints" / "last.ckpt" if resume else None
    trainer.fit(module, datamodule=task)
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in module.network.named_parameters()
    }


def fit_here(names: list[str], folder: str, steps: int, layout: str, resume: bool) -> None:
    """Train as one of all processes of the group, and let the first write the weights."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(size))
    for name in names:
        found = fit(name, Path(folder) / name, steps=steps, devices=size, layout=layout, resume=resume)
        if rank == 0:
            torch.save(found, Path(folder) / name / "weights.pt")


def fit_together(
    names: list[str],
    folder: Path,
    *,
    steps: int = STEPS,
    ranks: int = 2,
    layout: str = "zo_fsdp",
    resume: bool = False,
) -> dict[str, dict[str, Tensor]]:
    """Train on several processes by some strategies, and return what the module ends with by name of each."""
    in_ranks(fit_here, names, str(folder), steps, layout, resume, ranks=ranks)
    return {name: torch.load(folder / name / "weights.pt") for name in names}
