"""What a FineTuner's checkpoints hold beside Lightning's own, and what a run must share with one to take it up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from zolightning.distributed import ShardedStrategy
from zolightning.errors import ConfigurationError
from zolightning.runs import existing, reported_steps
from zolightning.shapes import check_same_model
from zolightning.strategies.base import Strategy
from zolightning.trainers import is_rehearsal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer

    from zolightning.finetuner import FineTuner
    from zolightning.optim.recipe import Recipe

KEY = "zolightning"


def note(module: FineTuner, recipe: Recipe | None, checkpoint: dict[str, Any]) -> None:
    """Note in a checkpoint, under `KEY`, what its weights are and what a run goes on from.

    Of adapters it need not hold the backbone: of the weights only what trains is left in it.
    """
    checkpoint[KEY] = {
        "scheme": str(module.scheme),
        "dtype": module.dtype_name,
        "strategy": name_of(module.strategy),
        "seed": module.run_seed,
        "forward_passes": module.forward_passes,
        "recipe": None if recipe is None else recipe.state_dict(),
        "settings": settings_of(module),
        "strategy_state": module.strategy.state_dict(),
    }
    if not module.scheme.whole:
        state = checkpoint["state_dict"]
        for name in state.keys() - {name for name, weight in module.named_parameters() if weight.requires_grad}:
            del state[name]


def name_of(strategy: Strategy) -> str:
    """Return what a strategy is, with the methods that it is made of: only the same can take up its optimizer's state.

    Example:
        >>> from zolightning.strategies import ZOSGD, BlockwiseZO
        >>> name_of(BlockwiseZO(ZOSGD(lr=1e-6, eps=1e-3)))
        'BlockwiseZO(ZOSGD)'
    """
    parts = [name_of(value) for value in vars(strategy).values() if isinstance(value, Strategy)]
    return type(strategy).__name__ + (f"({', '.join(parts)})" if parts else "")


def settings_of(module: FineTuner) -> dict[str, object]:
    """Return what a run's strategy and task were set to, by name."""
    model: dict[str, object] = {"model.backbone": module.backbone, "model.bos": module.bos}
    model["processes"] = module.processes.size
    if module.processes.size > 1:
        model["model.ranks"] = module.use_of_ranks
    return module.strategy_settings | model | _flat("data.", module.task.settings())


def strategy_settings(strategy: Strategy) -> dict[str, object]:
    """Return what a strategy was set to, by name; call it before training, which may change what a strategy holds."""
    return _flat("strategy.", vars(strategy))


def _flat(prefix: str, values: Mapping[str, object]) -> dict[str, object]:
    """Return values that can be compared; of objects of this package, their own."""
    found: dict[str, object] = {}
    for name, value in values.items():
        if value is None or isinstance(value, bool | int | float | str | tuple):
            found[prefix + name] = value
        elif type(value).__module__.startswith("zolightning."):
            found |= _flat(f"{prefix}{name}.", vars(value))
    return found


def take_up(module: FineTuner, checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """Let a module go on from a checkpoint, if it is to train; return what the run's recipe was, or None if not.

    Raises:
        ConfigurationError: as `check` does, or if the checkpoint is of another model.
    """
    saved = check(module, checkpoint)
    # A sharded checkpoint has been looked through and loaded by now, and has none here.
    if weights := checkpoint.get("state_dict"):
        own, shapes = module.state_dict(), {name: weight.shape for name, weight in weights.items()}
        trained = {name for name, weight in module.named_parameters() if weight.requires_grad}
        needed = own.keys() if module.scheme.whole else trained
        check_same_model({name: weight.shape for name, weight in own.items()}, shapes, needed)
    if module.trainer.state.fn != TrainerFn.FITTING:
        return None
    if saved["seed"] != module.run_seed:
        rank_zero_info(f"The run goes on with the seed that it began with, {saved['seed']}")
        module.seed = saved["seed"]
        module.task.order_seed = module.run_seed
    # Earlier versions did not note them.
    announce_changes(saved.get("settings", {}), settings_of(module))
    module.forward_passes = saved["forward_passes"]
    module.strategy.load_state_dict(saved["strategy_state"])
    recipe: dict[str, Any] | None = saved["recipe"]
    return recipe


def foresee(module: FineTuner) -> None:
    """Look into the checkpoint of a sharded run, which is loaded when the run has its weights.

    Known here is a checkpoint that was set as `trainer.ckpt_path`, as the command line does, not one given to `fit`.

    Raises:
        ConfigurationError: as `check` and `check_incomplete` do.
    """
    trainer = module.trainer
    if isinstance(trainer.strategy, ShardedStrategy) and trainer.ckpt_path is not None:
        checkpoint = trainer.strategy.header(Path(trainer.ckpt_path))
        check(module, checkpoint)
        check_incomplete(trainer, checkpoint["global_step"])


def check(module: FineTuner, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Check what is in a checkpoint beside its weights, and return what a FineTuner noted there.

    Raises:
        ConfigurationError: if the checkpoint is no FineTuner's, or of another scheme; where the module is to train,
            also if it is of another strategy or dtype, or of more steps than the run is to have.
    """
    saved = record_of(checkpoint, str(module.scheme), module.backbone)
    if module.trainer.state.fn == TrainerFn.FITTING:
        check_continuation(saved, name_of(module.strategy), module.dtype_name)
        steps = checkpoint["global_step"]
        # At its last step a run may have been killed before it came to its results.
        if 0 < module.trainer.max_steps < steps and not is_rehearsal(module.trainer):
            raise _nothing_left(module.trainer, steps)
    return saved


def announce_changes(began: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Say what a resumed run is set to that it did not begin with."""
    for name, value in now.items():
        if name in began and began[name] != value:
            rank_zero_info(f"The run goes on with {name}={value}; it began with {began[name]}")


def load_best(module: FineTuner) -> bool:
    """Load the weights that the Trainer's callback with a metric has kept; return whether they were there."""
    callbacks = (found for found in module.trainer.checkpoint_callbacks if isinstance(found, ModelCheckpoint))
    keeper = next((callback for callback in callbacks if callback.monitor is not None), None)
    if keeper is None or not keeper.best_model_path:
        return False
    best = Path(keeper.best_model_path)
    # A run that was moved has it beside its last one, and another run may be where it was. The first decides for all:
    # they must not come apart.
    places = (Path(keeper.dirpath or "") / best.name, best)
    path = module.trainer.strategy.broadcast(
        next((found for found in map(existing, places) if found is not None), None)
    )
    if path is None:
        rank_zero_warn(f"{best}, the best weights, is gone: the results are those of the last weights")
    elif isinstance(module.trainer.strategy, ShardedStrategy):
        module.trainer.strategy.load_weights(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        module.load_state_dict(state, strict=module.strict_loading)
    return path is not None


def record_of(checkpoint: Mapping[str, Any], scheme: str, backbone: str) -> dict[str, Any]:
    """Return what a FineTuner noted in a checkpoint, and warn if its backbone had another name.

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
    began = saved.get("settings", {}).get("model.backbone", backbone)
    if began != backbone:
        rank_zero_warn(f"ckpt_path: the checkpoint is of model.backbone={began}, and this run has {backbone}")
    return saved


def check_continuation(saved: dict[str, Any], strategy: str, dtype: str) -> None:
    """Check that training can go on from a checkpoint.

    Raises:
        ConfigurationError: if the strategy or the dtype is another.
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


def check_incomplete(trainer: Trainer, step: int) -> bool:
    """Check that a run that is taken up at a step has something left to do; return whether that is its results alone.

    Raises:
        ConfigurationError: if it has all its steps, and its results.
    """
    if trainer.state.fn != TrainerFn.FITTING or not 0 < step == trainer.max_steps or is_rehearsal(trainer):
        return False
    if reported_steps(trainer) >= step:
        raise _nothing_left(trainer, step)
    return True


def _nothing_left(trainer: Trainer, step: int) -> ConfigurationError:
    """Return what is raised where a run that is taken up at a step has nothing left to do."""
    return ConfigurationError(
        f"ckpt_path: the run is complete at step {step}; to go on, raise trainer.max_steps, now {trainer.max_steps}"
    )
