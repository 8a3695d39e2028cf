"""Backbones sharded over processes, loaded without any process ever holding all of the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zolightning.errors import ConfigurationError
from zolightning.models import loading
from zolightning.models.loading import Attention, Dtype
from zolightning.optim.blocks import layers_of
from zolightning.perturbation.shards import is_sharded, local_part

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def load_sharded(
    backbone: str, dtype: Dtype, attention: Attention, mesh: DeviceMesh, device: torch.device
) -> PreTrainedModel:
    """Load a backbone of which each process holds some rows of every weight, its transformer blocks gathered in turn.

    Where the files name the weights as the model does, each process reads its rows of them alone. Otherwise the first
    one loads the model into its memory, and hands out one weight at a time.

    Args:
        backbone: hub id, folder, or `sample`.
        dtype: of the weights; buffers such as rotary frequencies stay in float32.
        attention: the implementation.
        mesh: the processes, in one dimension.
        device: of this process.

    Raises:
        ConfigurationError: if it cannot be had, or some of its weights are missing.
    """
    model = _hollow(backbone, dtype, attention)
    shard(model, mesh)
    _materialise(model, device)
    with torch.no_grad(), _stored(backbone) as files:
        names = [name for name, _ in _tensors(model)]
        if files is not None and all(name in files for name in names):
            for name, tensor in _tensors(model):
                stored = files[name].get_slice(name)
                if (shape := stored.get_shape()) != list(tensor.shape):
                    raise ConfigurationError(
                        f"the backbone {backbone}: {name} has the shape {shape} in its files, and "
                        f"{list(tensor.shape)} by its config.json: the two are of different models"
                    )
                _read_into(tensor, stored)
        else:
            _receive(model, backbone, dtype, attention)
    nn.Module.eval(model)
    return model


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard each transformer block's weights as one unit, and those outside of blocks as another; in place."""
    from torch.distributed.fsdp import fully_shard

    for path in list(layers_of(model)):
        fully_shard(model.get_submodule(path), mesh=mesh)
    # By default the root's weights stay gathered after a forward, which serves a backward alone.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def _hollow(backbone: str, dtype: Dtype, attention: Attention) -> PreTrainedModel:
    """Return the model without memory for its weights; its buffers, which no file may have, are as they should be."""
    from accelerate import init_empty_weights
    from transformers import GenerationConfig

    config = deepcopy(loading.load_config(backbone))
    with init_empty_weights(include_buffers=False):
        model: Any = loading.kind_of(config).from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attention
        )
    model.tie_weights()
    if model.can_generate():
        # Older models have none, and go by their configuration.
        with suppress(OSError):
            model.generation_config = GenerationConfig.from_pretrained(loading.resolve(backbone))
    made: PreTrainedModel = model
    return made


def _materialise(model: nn.Module, device: torch.device) -> None:
    """Give the shards memory, with whatever is in it; buffers and ties stay."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.to_empty(device=device)
    for (name, new), (_, kept) in zip(model.named_buffers(), buffers, strict=True):
        assert new.shape == kept.shape, name
        new.copy_(kept)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter once, and the buffers that files keep, by the name that the files know them by."""
    kept = model.state_dict().keys()
    yield from model.named_parameters()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


@contextmanager
def _stored(backbone: str) -> Iterator[Mapping[str, Any] | None]:
    """Open the safetensors files of a backbone; give the one that holds each weight, or None if there are none."""
    from huggingface_hub import snapshot_download
    from safetensors import safe_open

    folder = Path(loading.resolve(backbone))
    if not folder.is_dir():
        folder = Path(snapshot_download(str(folder), allow_patterns=["model*.safetensors*"]))
    if (folder / _INDEX).is_file():
        found = set(json.loads((folder / _INDEX).read_text())["weight_map"].values())
    else:
        found = {_SINGLE} if (folder / _SINGLE).is_file() else set()
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(folder / name, framework="pt")) for name in sorted(found)]
        yield {name: file for file in files for name in file.keys()} or None  # noqa: SIM118  it is no mapping


def _read_into(tensor: Tensor, stored: Any) -> None:
    """Copy this process' rows of a weight, whole or in a file."""
    if not is_sharded(tensor):
        tensor.copy_(stored[...])
        return
    local = tensor.to_local()
    first = local_part(tensor).first // max(1, tensor.numel() // tensor.size(0))
    if len(local):
        local.copy_(stored[first : first + len(local)])


def _receive(model: nn.Module, backbone: str, dtype: Dtype, attention: Attention) -> None:
    """Take this process' rows of each weight from the first process, which loads them all."""
    source: dict[str, Tensor] = {}
    if torch.distributed.get_rank() == 0:
        source = dict(loading.load_model(backbone, dtype, attention).state_dict())
    for name, tensor in _tensors(model):
        whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        if source:
            whole.copy_(source.pop(name))
        torch.distributed.broadcast(whole, 0)
        _read_into(tensor, whole)


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a sharded model in the first process' memory, empty elsewhere; all processes call it."""
    first = torch.distributed.get_rank() == 0
    found: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        # Tied weights stay tied.
        if id(tensor) not in found:
            whole = tensor.full_tensor() if is_sharded(tensor) else tensor
            found[id(tensor)] = whole.detach().cpu() if first else whole.new_empty(0)
        if first:
            state[name] = found[id(tensor)]
    return state
