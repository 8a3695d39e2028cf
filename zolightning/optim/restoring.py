"""Taking up a saved optimizer's state as it is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch.optim import Optimizer

from zolightning.errors import ConfigurationError


def check_fits(state_dict: dict[str, Any], kept: Collection[str]) -> None:
    """Refuse a state that another update has kept.

    Args:
        state_dict: an optimizer's.
        kept: what this update keeps for each parameter, by name.

    Raises:
        ConfigurationError: if the state lacks some of it.
    """
    for state in state_dict["state"].values():
        if missing := set(kept) - state.keys():
            raise ConfigurationError(
                f"the checkpoint's optimizer kept {', '.join(sorted(state.keys() - {'step'})) or 'nothing'}, and "
                f"this one needs {', '.join(sorted(missing))}: resume with the strategy that the run began with"
            )


def restore_exactly(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Restore states as they are: torch casts them to the parameters' dtype, which would round them."""
    for saved, group in zip(state_dict["param_groups"], optimizer.param_groups, strict=True):
        for index, parameter in zip(saved["params"], group["params"], strict=True):
            for key, kept in state_dict["state"][index].items():
                if key != "step":
                    optimizer.state[parameter][key] = kept.detach().clone().to(parameter.device)


def write_steps(optimizer: Optimizer) -> None:
    """Bring the per-parameter counters up to date; between checkpoints the groups' counter is the one that counts."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["step"].fill_(group["step"])
