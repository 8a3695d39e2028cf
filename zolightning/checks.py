"""What a zeroth-order run cannot honour is refused before it starts, with what to set instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_warn

from zolightning.distributed import STRATEGIES
from zolightning.errors import ConfigurationError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from zolightning.strategies import Strategy
    from zolightning.tasks import Task


def check_trainer(trainer: Trainer) -> None:
    """Check the Trainer's settings, all at once.

    Raises:
        ConfigurationError: naming every setting that must change, and what to set instead.
    """
    problems = []
    if trainer.precision != "32-true":
        problems.append(
            f"trainer.precision={trainer.precision}: leave it at 32-true and set model.dtype (float32, bfloat16 or "
            "float16); Lightning's precisions round the loss or the rotary frequencies, which zeroth-order steps do "
            "not survive"
        )
    if trainer.accumulate_grad_batches != 1:
        problems.append(
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}: set data.batch_size to the whole "
            "batch and model.micro_batch_size to what fits in memory"
        )
    if trainer.gradient_clip_val:
        problems.append(
            f"trainer.gradient_clip_val={trainer.gradient_clip_val}: set model.strategy.clip_norm of a first-order "
            "strategy; a zeroth-order step has no gradient to clip"
        )
    if trainer.world_size > 1 and not isinstance(trainer.strategy, tuple(STRATEGIES.values())):
        problems.append(
            f"trainer.strategy: {type(trainer.strategy).__name__} on {trainer.world_size} processes: set it to "
            f"{' or '.join(STRATEGIES)}, which keep the weights of all processes equal without gradients, or "
            "trainer.devices to 1"
        )
    if trainer.limit_val_batches == 0:
        rank_zero_warn("trainer.limit_val_batches=0: without validation the last weights are kept, not the best on dev")
    if problems:
        raise ConfigurationError("the trainer's settings do not fit this module:\n  - " + "\n  - ".join(problems))


def check_objective_fits(strategy: Strategy, task: Task) -> None:
    """Check that a method which differentiates its loss is given one that has a gradient.

    Raises:
        ConfigurationError: if not.
    """
    if strategy.needs_gradient and task.objective == "metric":
        raise ConfigurationError(
            f"data.objective: {task.objective} has no gradient, and {type(strategy).__name__} goes by one: set "
            "model.strategy to a strategy that probes, such as ZOSGD, without mask: snip, or data.objective to "
            "classification or lm"
        )
