"""What a run's journal begins with."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

import zolightning
from zolightning.finetuner import FineTuner
from zolightning.journal.identity import describe
from zolightning.journal.layout import FORMAT
from zolightning.journal.scheme import describe_scheme
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.resume import name_of

# What may change in a run that goes on: it does not decide how a record moves the weights.
_FREE = frozenset({"written_by", "data", "selection", "model"})


def reason_against(trainer: Trainer, module: FineTuner) -> str | None:
    """Return why a run can have no journal, or None if it can."""
    optimizer = trainer.optimizers[0]
    if not isinstance(optimizer, ZerothOrderOptimizer):
        return f"{name_of(module.strategy)} goes by gradients, and its steps are not told by scalars"
    return optimizer.irreproducible


def header_of(
    trainer: Trainer, module: FineTuner, optimizer: ZerothOrderOptimizer, base: dict[str, str] | None
) -> dict[str, Any]:
    """Return a run's header.

    Args:
        trainer: of the run.
        module: what it trains.
        optimizer: what moves the weights.
        base: what the weights were before the first step.
    """
    monitors = [found for found in trainer.checkpoint_callbacks if isinstance(found, ModelCheckpoint)]
    best = next((found for found in monitors if found.monitor is not None), None)
    return {
        "format": FORMAT,
        "written_by": {"zolightning": zolightning.__version__, "torch": str(torch.__version__)},
        "model": {
            "backbone": module.backbone,
            "dtype": module.dtype_name,
            "attention": module.attention,
            "bos": module.bos,
        },
        "base": base,
        "scheme": describe_scheme(module.scheme),
        "strategy": {"name": name_of(module.strategy), "settings": _plain(module.strategy_settings)},
        "data": _plain(module.task.settings()),
        "selection": None if best is None else {"monitor": best.monitor, "mode": best.mode},
        **describe(optimizer),
    }


def identity_of(header: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a header in which a run that goes on must not differ from the one that began."""
    kept = {name: value for name, value in header.items() if name not in _FREE}
    return kept | {"strategy": {"name": header["strategy"]["name"]}}


def settings_in(header: dict[str, Any]) -> dict[str, object]:
    """Return what a header tells of a run's model, strategy and task, by name."""
    strategy: dict[str, object] = header["strategy"]["settings"]
    parts = {f"{part}.{name}": value for part in ("model", "data") for name, value in header[part].items()}
    return strategy | parts


def _plain(values: dict[str, object]) -> dict[str, object]:
    """Return values as JSON gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
