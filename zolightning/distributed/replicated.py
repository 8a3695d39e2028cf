"""Replicated weights: every process holds the whole model, and only scalars are exchanged."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import torch
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import DDPStrategy
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.journal.identity import fingerprint
from zolightning.optim.ranks import Ranks


class ReplicatedStrategy(DDPStrategy):
    """Data-parallel training with the whole model on every device; `zo_ddp` by name.

    The weights are broadcast once from the first process, and stay equal because all processes take the same steps.
    Unlike DistributedDataParallel it needs no gradients, and no buckets for them that are as large as the model.
    Whether the weights are still equal is looked at before each validation.

    Args:
        process_group_backend: of torch.distributed; null for NCCL on GPUs and gloo on processors.
        timeout_minutes: after which a process that waits for another gives up.
        start_method: how processes are started: `popen` runs the script again for each.

    Raises:
        ConfigurationError: if timeout_minutes is not positive.
    """

    def __init__(
        self,
        process_group_backend: str | None = None,
        timeout_minutes: float = 30.0,
        start_method: Literal["popen", "spawn", "fork", "forkserver"] = "popen",
    ) -> None:
        if not timeout_minutes > 0:
            raise ConfigurationError(f"timeout_minutes must be positive, got {timeout_minutes}")
        super().__init__(
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
            start_method=start_method,
        )

    @override
    def configure_ddp(self) -> None:
        """Broadcast the weights; the model stays as it is."""
        assert self.model is not None
        _sync_module_states(self.model)

    @override
    def on_validation_start(self) -> None:
        """Find out whether all processes have the same weights.

        Raises:
            RuntimeError: if not: they would not have taken the same steps since.
        """
        assert self.model is not None
        trained = ((name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad)
        # As many of its digits as a number has room for.
        digest = torch.tensor(int(fingerprint(trained)[:15], 16), device=self.root_device)
        found = Ranks(self.global_rank, self.world_size).gather(digest)
        if not bool((found == found[0]).all()):
            raise RuntimeError(
                "the processes have come to have different weights, of which the first process' would be saved: this "
                "is a fault of zolightning, of the strategy, or of a device"
            )
