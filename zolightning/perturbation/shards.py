"""Weights that are spread over processes: which elements of a parameter this one holds, and what all hold together.

After `torch.distributed.fsdp.fully_shard` a parameter is, outside of forwards, a tensor of the whole's shape of which
each process has some successive rows, or none. Inside of a forward the gathered one is in its place.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard, cast

import torch
from torch import Tensor, nn

from zolightning.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.distributed import ProcessGroup
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Part:
    """The elements of a parameter that this process holds.

    Args:
        flat: the elements, flat; of a parameter, a view of its memory [n].
        first: the index in the parameter of the first of them.
        size: how many elements the parameter has.
        group: the processes that hold the parts of the parameter, in order; None where one holds it all.
    """

    flat: Tensor
    first: int
    size: int
    group: ProcessGroup | None = None

    @classmethod
    def all_of(cls, flat: Tensor) -> Part:
        """Return a whole flat weight [n] as the only part."""
        return cls(flat, 0, flat.numel())

    def slice(self, first: int, stop: int) -> Tensor:
        """Return the elements between two indices in the parameter, which this part must hold, a view."""
        return self.flat[first - self.first : stop - self.first]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of the processes' values, of any shape; the tensor itself may be overwritten."""
        if self.group is not None:
            torch.distributed.all_reduce(values, group=self.group)
        return values

    def sum_before(self, value: int) -> int:
        """Return the sum of the values of the processes that hold earlier parts."""
        if self.group is None:
            return 0
        values = torch.zeros(self.group.size(), dtype=torch.int64, device=self.flat.device)
        values[self.group.rank()] = value
        return int(self.sum(values)[: self.group.rank()].sum())


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Return whether a tensor is spread over processes."""
    # Nothing can be before somebody has imported what spreads it, which takes a while.
    if "torch.distributed.tensor" not in sys.modules:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


@torch.no_grad()
def local_part(tensor: Tensor) -> Part:
    """Return the part of a tensor that this process holds; of one that is not sharded, all of it.

    Raises:
        ConfigurationError: if it is sharded otherwise than by rows.
    """
    if not is_sharded(tensor):
        return Part.all_of(tensor.detach().view(-1))
    from torch.distributed.tensor import Shard

    mesh, flat = tensor.device_mesh, tensor.to_local().detach().view(-1)
    cut = [number for number, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    if not cut:
        return Part.all_of(flat)
    if len(cut) > 1 or tensor.placements[cut[0]] != Shard(0):
        raise ConfigurationError(
            f"weights are sharded as {tensor.placements}: directions are made for rows, so shard dimension 0 alone, as "
            "torch.distributed.fsdp.fully_shard does"
        )
    rows, parts = tensor.size(0), mesh.size(cut[0])
    first_row = min(mesh.get_local_rank(cut[0]) * -(-rows // parts), rows)
    return Part(flat, first_row * (tensor.numel() // rows), tensor.numel(), mesh.get_group(cut[0]))


def units_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules that gather the weights of their part of the model for the length of its forward."""
    if "torch.distributed.fsdp" not in sys.modules:
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def reshard(units: Iterable[nn.Module]) -> None:
    """Let go of all gathered weights, some of which a forward leaves behind: they would hide that the shards move."""
    for unit in units:
        cast("FSDPModule", unit).reshard()
