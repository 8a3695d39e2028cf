"""What a run is: its base weights, what trains, and how; so that a journal is not replayed onto another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from zolightning.errors import ConfigurationError
from zolightning.optim import rules
from zolightning.optim.blocks import Blocks
from zolightning.optim.estimators import ESTIMATORS
from zolightning.optim.sparsity import Sparsity
from zolightning.optim.updates import Elementwise, Linear, Update
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.perturbation.noise import LAYOUT_VERSION
from zolightning.perturbation.options import EngineOptions
from zolightning.perturbation.rounding import wide_dtype
from zolightning.perturbation.shards import is_sharded, local_part

# Odd, with bits all over: two weights that change places change the sum.
_MULTIPLIER, _ADDEND = 0x5851F42D4C957F2D, 0x14057B7EF767814F
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 22
_RULES = {kind.__name__: kind for kind in (rules.Adam, rules.Momentum, rules.Sign)}


@torch.no_grad()
def fingerprint(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """Return a digest of names, shapes, dtypes and every bit of the values; one pass over them on their device."""
    named = dict(parameters)
    sums = [_sum_of_bits(weight) for weight in named.values()]
    digest = hashlib.sha256()
    for (name, weight), total in zip(named.items(), torch.stack([one.cpu() for one in sums]).tolist(), strict=True):
        digest.update(f"{name} {list(weight.shape)} {weight.dtype} {total}\n".encode())
    return digest.hexdigest()


def _sum_of_bits(weight: Tensor) -> Tensor:
    """Return the sum over all elements of their bits times an odd number of their place, modulo 2^64 [].

    Of a sharded weight it is the sum over all shards, which all processes call for.
    """
    held = local_part(weight if is_sharded(weight) else weight.detach().contiguous())
    bits = held.flat.view(_BITS[weight.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for first in range(0, bits.numel(), _CHUNK):
        part = bits[first : first + _CHUNK].to(torch.int64)
        places = torch.arange(held.first + first, held.first + first + part.numel(), device=bits.device)
        total += (part * ((places * _MULTIPLIER + _ADDEND) | 1)).sum()
    return held.sum(total)


def shapes_of(parameters: Mapping[str, Tensor]) -> str:
    """Return a digest of names and shapes."""
    lines = (f"{name} {list(weight.shape)}\n" for name, weight in parameters.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe(optimizer: ZerothOrderOptimizer) -> dict[str, Any]:
    """Return all that decides how records move the weights, as JSON has it.

    Raises:
        ConfigurationError: if the optimizer's steps cannot be taken again from records.
    """
    if (why := optimizer.irreproducible) is not None:
        raise ConfigurationError(f"there is no journal of this optimizer: {why}")
    in_place = optimizer.engine.options.probe == "in_place"
    weights = optimizer.engine.parameters
    return {
        "seed": optimizer.seed,
        "noise_layout": LAYOUT_VERSION,
        "dtype": str(wide_dtype(next(iter(weights.values())).dtype)).removeprefix("torch."),
        "factors": optimizer.factors_a_step,
        "trained": {
            "number": sum(weight.numel() for weight in weights.values()),
            "dtypes": sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()}),
            "shapes": shapes_of(weights),
        },
        "optimizer": {
            "update": _describe_update(optimizer.update),
            "num_queries": optimizer.num_queries,
            "weight_decay": max(group["weight_decay"] for group in optimizer.param_groups),
            "sparsity": None if optimizer.sparsity is None else asdict(optimizer.sparsity),
            "blocks": None if optimizer.plan is None else asdict(optimizer.plan),
            "engine": asdict(optimizer.engine.options),
            # In-place probes walk the weights about, which rounds.
            "walk": {"estimator": optimizer.estimator.__name__, "eps": optimizer.eps} if in_place else None,
        },
    }


def _describe_update(update: Update) -> dict[str, Any]:
    again = update.again()
    if isinstance(again, Elementwise):
        rule = again.rule
        settings = asdict(cast("Any", rule)) if is_dataclass(rule) else {"rule": repr(rule)}
        return {"name": type(rule).__name__, **{key: _plain(value) for key, value in settings.items()}}
    return {"name": type(again).__name__}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def rebuild(model: nn.Module, header: Mapping[str, Any]) -> ZerothOrderOptimizer:
    """Return an optimizer of a model that takes the steps of a journal again.

    Raises:
        ConfigurationError: if the update is none of this package: then configure the run's own strategy and use
            `replay`.
    """
    told = header["optimizer"]
    settings = dict(told["update"])
    name = settings.pop("name")
    if name != Linear.__name__ and name not in _RULES:
        raise ConfigurationError(
            f"the journal is of an update of its own, {name}: configure its strategy on the base model and give its "
            "optimizer to zolightning.journal.replay"
        )
    walk = told["walk"]
    return ZerothOrderOptimizer(
        model,
        lr=0.0,
        eps=walk["eps"] if walk else 1.0,
        num_queries=told["num_queries"],
        weight_decay=told["weight_decay"],
        seed=header["seed"],
        sparsity=None if told["sparsity"] is None else Sparsity(**told["sparsity"]),
        estimator=next(one for one in ESTIMATORS.values() if not walk or one.__name__ == walk["estimator"]),
        update=Linear() if name == Linear.__name__ else Elementwise(_RULES[name](**settings)),
        blocks=None if told["blocks"] is None else Blocks(**told["blocks"]),
        engine=EngineOptions(**told["engine"]),
    )


def differences(header: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return what a journal's header says otherwise than what is at hand, of the things that the latter states."""
    return list(_differences(header, other, ""))


def _differences(header: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, here in other.items():
        there = header.get(name)
        if isinstance(here, Mapping):
            yield from _differences(there if isinstance(there, Mapping) else {}, here, f"{prefix}{name}.")
        elif there != here:
            yield f"{prefix}{name} is {there} in the journal, {here} here"


def check_same(header: Mapping[str, Any], here: Mapping[str, Any], path: object, advice: str) -> None:
    """Refuse a journal of another run.

    Raises:
        ConfigurationError: naming what differs, with the advice what to do.
    """
    if found := differences(header, here):
        raise ConfigurationError(f"the journal {path} is of another run:\n  - " + "\n  - ".join(found) + f"\n{advice}")
