"""Fine-tuning schemes: which parameters train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from torch import nn

from zolightning.errors import ConfigurationError, check_choice
from zolightning.models.adapters import Adapter, LoRA, Prefix, Prompt
from zolightning.models.loading import max_positions, skeleton
from zolightning.optim.blocks import layers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

SchemeName = Literal["full", "bias_only", "head", "lora", "prefix", "prompt"]

_ADAPTERS: dict[str, Adapter] = {"lora": LoRA(), "prefix": Prefix(), "prompt": Prompt()}
_IN_LAYERS = ("full", "bias_only")


@dataclass(frozen=True)
class Scheme:
    """Which parameters train, the others being frozen.

    - `full`: all of them.
    - `bias_only`: the biases, of norms too (BitFit, arXiv 2106.10199). Llama and its like have none.
    - `head`: the output head. One that shares its weight with the input embeddings gets a copy of its own first.
    - `lora`, `prefix`, `prompt`: an adapter with the settings of MeZO and ZO-Bench; an `Adapter` has others.

    Args:
        kind: one of those names, or an adapter.
        layers: with `full` and `bias_only`, the numbers of the only transformer blocks that train, from 0; None for the
            whole model, embeddings and head included.

    Raises:
        ConfigurationError: if there is no such scheme, an adapter's settings are out of range, or layers are given to
            a scheme that has none, are none, or are negative.
    """

    kind: SchemeName | Adapter = "full"
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check that the settings go together."""
        if isinstance(self.kind, Adapter):
            self.kind.check()
        else:
            check_choice("scheme", self.kind, get_args(SchemeName))
        if self.layers is None:
            return
        if self.kind not in _IN_LAYERS:
            raise ConfigurationError(
                f"layers={list(self.layers)} goes with scheme full or bias_only, which train what the layers hold; "
                f"{self.kind} trains something else: set layers to null, or the scheme to full"
            )
        if not self.layers or min(self.layers) < 0:
            raise ConfigurationError(
                f"layers must be numbers of layers, counted from 0, or null for all, got {list(self.layers)}"
            )

    def __str__(self) -> str:
        """Return the name, or the adapter's settings where they are not the name's, and the layers."""
        name = next((name for name, adapter in _ADAPTERS.items() if adapter == self.kind), str(self.kind))
        return name if self.layers is None else f"{name} and model.layers={sorted(set(self.layers))}"

    @property
    def whole(self) -> bool:
        """Whether all of the model trains."""
        return self.kind == "full" and self.layers is None

    @property
    def adapter(self) -> Adapter | None:
        """The adapter, if the scheme has one."""
        return self.kind if isinstance(self.kind, Adapter) else _ADAPTERS.get(self.kind)

    @property
    def virtual_tokens(self) -> int:
        """How many of the model's positions the scheme takes."""
        return 0 if self.adapter is None else self.adapter.virtual_tokens

    def room(self, config: PretrainedConfig) -> int | None:
        """Return how many tokens of text the model can read, or None where its configuration sets no limit."""
        limit = max_positions(config)
        return None if limit is None else limit - self.virtual_tokens

    def check(self, config: PretrainedConfig) -> None:
        """Try the scheme on a model without weights, before the real one is loaded.

        A prefix and a prompt are made from the weights: they are found to fit when they are applied.

        Raises:
            ConfigurationError: as of `apply`.
        """
        if not self.whole and not self.virtual_tokens:
            self.apply(skeleton(config))

    def apply(self, model: PreTrainedModel, *, seed: int = 0) -> nn.Module:
        """Return the model with the scheme's parameters trainable and all others frozen.

        Args:
            model: a language model in evaluation mode; adapters may replace its modules.
            seed: of what an adapter draws.

        Raises:
            ConfigurationError: if the model has no such parameters.
        """
        if self.adapter is not None:
            return self.adapter.attach(model, seed)
        if self.kind == "head":
            return _training(model, untied_head(model).parameters())
        named = dict(model.named_parameters())
        if self.layers is not None:
            inside = tuple(f"{path}." for path in self._paths(model))
            named = {name: parameter for name, parameter in named.items() if name.startswith(inside)}
        if self.kind == "bias_only":
            named = {name: parameter for name, parameter in named.items() if name.endswith("bias")}
            if not named:
                where = "" if self.layers is None else f" in its layers {list(self.layers)}"
                raise ConfigurationError(
                    f"scheme: {type(model).__name__} has no biases{where}, so bias_only would train nothing: set "
                    "model.scheme to full, lora, prefix, prompt or head"
                )
        return _training(model, named.values())

    def _paths(self, model: PreTrainedModel) -> list[str]:
        """Return the paths of the layers that train."""
        assert self.layers is not None
        paths, number = list(layers_of(model)), model.config.get_text_config().num_hidden_layers
        if len(paths) != number:
            raise ConfigurationError(
                f"layers: {type(model).__name__} has {number} layers, but {len(paths)} modules look like one, so that "
                "they cannot be told by number: set layers to null"
            )
        if max(self.layers) >= number:
            raise ConfigurationError(
                f"layers={list(self.layers)}: {type(model).__name__} has {number}, numbered from 0 to {number - 1}"
            )
        return [paths[layer] for layer in self.layers]


def untied_head(model: PreTrainedModel) -> nn.Module:
    """Return a model's output head, which now has a copy of its own of a weight that it shared with the embeddings.

    The model's configuration says so, so that an export loads as it is.
    """
    head: nn.Module = cast("Any", model).get_output_embeddings()
    shared: set[nn.Parameter] = set(cast("Any", model).get_input_embeddings().parameters())
    for name, parameter in list(head.named_parameters(recurse=False)):
        if parameter in shared:
            head.register_parameter(name, nn.Parameter(parameter.detach().clone()))
            model.config.tie_word_embeddings = False
            model.config.get_text_config().tie_word_embeddings = False
    return head


def _training(model: nn.Module, parameters: Iterable[nn.Parameter]) -> nn.Module:
    """Let these parameters train alone."""
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return model
