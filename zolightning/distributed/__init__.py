"""Distributed strategies: how a run lives on several devices; registered with Lightning by name."""

from __future__ import annotations

from lightning.pytorch.strategies import Strategy, StrategyRegistry

from zolightning.distributed.replicated import ReplicatedStrategy
from zolightning.distributed.sharded import ShardedStrategy
from zolightning.distributed.termination import Termination

# What `trainer.strategy` may be where there are several processes, by name.
STRATEGIES: dict[str, type[Strategy]] = {"zo_ddp": ReplicatedStrategy, "zo_fsdp": ShardedStrategy}

for _name, _strategy in STRATEGIES.items():
    StrategyRegistry.register(_name, _strategy, description=(_strategy.__doc__ or "").split("\n", 1)[0])

__all__ = ("STRATEGIES", "ReplicatedStrategy", "ShardedStrategy", "Termination")
