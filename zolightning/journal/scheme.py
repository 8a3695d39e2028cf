"""The model that a run began with: the base and the scheme, as a journal's header has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from torch import nn

from zolightning.errors import ConfigurationError
from zolightning.journal.identity import fingerprint
from zolightning.models import adapters
from zolightning.models.loading import Attention, load_model
from zolightning.models.schemes import Scheme

_ADAPTERS = {kind.__name__: kind for kind in (adapters.LoRA, adapters.Prefix, adapters.Prompt)}


def base_of(model: nn.Module, adapter: bool) -> dict[str, str]:
    """Return what the base weights are: all of the model's, but for an adapter's own, which follow from the seed."""
    named = ((name, weight) for name, weight in model.named_parameters() if not (adapter and weight.requires_grad))
    return {"fingerprint": fingerprint(named)}


def describe_scheme(scheme: Scheme) -> dict[str, Any]:
    """Return a scheme as JSON has it."""
    adapter = scheme.adapter
    return {
        "adapter": adapter is not None,
        "kind": scheme.kind if adapter is None else type(adapter).__name__,
        "settings": {} if adapter is None else asdict(cast("Any", adapter)),
        "layers": None if scheme.layers is None else sorted(set(scheme.layers)),
    }


def loaded(base: str, header: Mapping[str, Any]) -> nn.Module:
    """Load a base model with a journal's scheme on it.

    Raises:
        ConfigurationError: if it cannot be loaded, or the scheme is none of this package.
    """
    told = header["scheme"]
    kind = told["kind"]
    if told["adapter"]:
        if kind not in _ADAPTERS:
            raise ConfigurationError(
                f"the journal is of an adapter of its own, {kind}: put it on the base model itself"
            )
        kind = _ADAPTERS[kind](**told["settings"])
    began = header["model"]
    # A replay takes no forward: it is not to need the GPU, nor the package, that the run's attention did.
    attention: Attention = "sdpa" if began["attention"] == "flash_attention_2" else began["attention"]
    model = load_model(base, began["dtype"], attention)
    return Scheme(kind, told["layers"]).apply(model, seed=header["seed"]).eval()
