"""Parameter groups: matrices decay, vectors (biases, norms) are exempt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from zolightning.errors import ConfigurationError


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into a decayed group and an exempt one, leaving out an empty group.

    Raises:
        ConfigurationError: if no parameter is trainable.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ConfigurationError("nothing is trainable: every parameter of the model has requires_grad=False")
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    vectors = [parameter for parameter in trainable if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
