"""Adapters: a few parameters of their own beside a frozen backbone, put there by peft.

The classes are not peft's own configurations because importing those takes seconds, which the command line's help would
wait for, and because they have dozens of settings, most of which a run does not honour.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zolightning.errors import ConfigurationError
from zolightning.models.loading import is_masked

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Adapter(ABC):
    """Parameters that a run trains, keeps and exports alone; the backbone's are frozen.

    They are float32 where the backbone is half precision. An adapter's `str` tells it from others in checkpoints: let a
    class of your own be a frozen dataclass.
    """

    @property
    def virtual_tokens(self) -> int:
        """How many of the model's positions the adapter takes."""
        return 0

    @abstractmethod
    def check(self) -> None:
        """Check the settings; not in the constructor, whose errors the command line would bury in those of its parser.

        Raises:
            ConfigurationError: if one is out of range.
        """

    @abstractmethod
    def attach(self, model: PreTrainedModel, seed: int) -> nn.Module:
        """Return the model with the adapter, whose parameters alone are trainable.

        Args:
            model: a language model; it is frozen, and its modules may be replaced.
            seed: of all that is drawn.

        Raises:
            ConfigurationError: if the model has no place for the adapter.
        """


@dataclass(frozen=True)
class LoRA(Adapter):
    """Low-rank adapters (arXiv 2106.09685): W + (alpha / r) B A, with A random and B zero at first.

    Args:
        r: the rank.
        alpha: the scale times the rank.
        targets: names of the linear modules; null for the query and value projections (GPT-2 and others have them in
            one module with the keys), whose names peft knows in each family.
    """

    r: int = 8
    alpha: int = 16
    targets: list[str] | None = None

    def check(self) -> None:
        """Refuse a rank or a scale below 1, and targets that are none."""
        _at_least_one(r=self.r, alpha=self.alpha)
        if self.targets is not None and not self.targets:
            raise ConfigurationError("targets must name at least one module, or be null for queries and values, got []")

    def attach(self, model: PreTrainedModel, seed: int) -> nn.Module:
        """Return the model with low-rank adapters; A is of the seed."""
        from peft import LoraConfig, get_peft_model
        from transformers.pytorch_utils import Conv1D

        # Weights of GPT-2's kind lie the other way round, which peft sees by itself, but warns of.
        transposed = any(isinstance(module, Conv1D) for module in model.modules())
        config = LoraConfig(
            task_type=_task_type(model),
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=0.0,
            target_modules=self.targets,
            fan_in_fan_out=transposed,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                adapted: nn.Module = get_peft_model(model, config)
            except ValueError as error:
                raise ConfigurationError(
                    f"scheme: there are no modules of {type(model).__name__} to put low-rank adapters on: name linear "
                    f"ones by scheme.class_path=LoRA and scheme.init_args.targets, such as [q_proj, v_proj] ({error})"
                ) from error
        return adapted


@dataclass(frozen=True)
class VirtualTokens(Adapter):
    """An adapter that puts tokens of its own before each text.

    Args:
        tokens: how many.
    """

    tokens: int

    def check(self) -> None:
        """Refuse fewer tokens than one."""
        _at_least_one(tokens=self.tokens)

    @property
    def virtual_tokens(self) -> int:
        """The tokens before a text."""
        return self.tokens


@dataclass(frozen=True)
class Prefix(VirtualTokens):
    """Prefix tuning (arXiv 2101.00190): keys and values of virtual tokens before the text, in each layer, all trained.

    peft alone begins with random numbers, from which zeroth-order methods hardly get away. Here, as in MeZO
    (arXiv 2305.17333), the prefix begins with the keys and values of random tokens of the vocabulary, so that the model
    computes at first what it does with those tokens in front of each text. Keys are kept with the rotation of their
    positions, 0 to tokens - 1, and the text's positions go on from there. MeZO probes a prefix with eps 0.1.

    Args:
        tokens: how many virtual tokens.
    """

    tokens: int = 5

    def attach(self, model: PreTrainedModel, seed: int) -> nn.Module:
        """Return the model with a prefix of keys and values of random tokens; takes one forward of them."""
        from peft import PrefixTuningConfig, get_peft_model

        start = _keys_and_values(model, random_tokens(model, self.tokens, seed))
        config = PrefixTuningConfig(
            task_type=_task_type(model),
            num_virtual_tokens=self.tokens,
            num_layers=start.size(1) // 2,
            num_attention_heads=start.size(2),
            token_dim=start.size(2) * start.size(3),
        )
        return _beginning_at(start.flatten(1), get_peft_model(model, config))


@dataclass(frozen=True)
class Prompt(VirtualTokens):
    """Prompt tuning (arXiv 2104.08691): embeddings of virtual tokens before the text, trained.

    They begin as the embeddings of random tokens of the vocabulary.

    Args:
        tokens: how many virtual tokens.
    """

    tokens: int = 10

    def attach(self, model: PreTrainedModel, seed: int) -> nn.Module:
        """Return the model with a prompt of random tokens' embeddings."""
        from peft import PromptTuningConfig, get_peft_model

        with torch.no_grad():
            start: Tensor = model.get_input_embeddings()(random_tokens(model, self.tokens, seed))
        # Embeddings may be narrower than what the layers pass on, as OPT-350m's are.
        config = PromptTuningConfig(
            task_type=_task_type(model), num_virtual_tokens=self.tokens, token_dim=start.size(-1)
        )
        return _beginning_at(start, get_peft_model(model, config))


def _task_type(model: PreTrainedModel) -> str:
    """What peft calls models that go on with a text, and those that read it whole."""
    return "FEATURE_EXTRACTION" if is_masked(model.config) else "CAUSAL_LM"


def random_tokens(model: PreTrainedModel, number: int, seed: int) -> Tensor:
    """Return random numbers of the vocabulary [number], of a seed, on the model's device."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.get_text_config().vocab_size, (number,), generator=drawn).to(model.device)


@torch.no_grad()
def _keys_and_values(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Return the keys and values of tokens [tokens], as peft lays a prefix out [tokens, 2 * layers, heads, width].

    The heads are those of keys, of which grouped-query attention has fewer than queries.
    """
    from transformers import DynamicCache

    # Made without the model's configuration a cache keeps all tokens, also of layers with a window.
    cache: Any = DynamicCache()
    shapes: set[torch.Size] = set()
    failure = None
    try:
        model(input_ids=tokens.unsqueeze(0), past_key_values=cache, use_cache=True)
        shapes = {part.shape for layer in cache.layers for part in (layer.keys, layer.values)}
    except (AttributeError, TypeError, ValueError) as error:
        failure = error
    if len(shapes) != 1 or len(cache.layers) != model.config.get_text_config().num_hidden_layers:
        raise ConfigurationError(
            f"scheme: {type(model).__name__} does not keep keys and values of one shape in each layer, so it cannot "
            "have a prefix: set model.scheme to prompt or lora"
        ) from failure
    both = torch.cat([part for layer in cache.layers for part in (layer.keys, layer.values)])
    return both.permute(2, 0, 1, 3)


def _beginning_at(start: Tensor, adapted: Any) -> nn.Module:
    """Give a prefix or prompt its first values [tokens, width]."""
    encoder: nn.Module = adapted.prompt_encoder[adapted.active_adapter]
    encoder.to(torch.promote_types(start.dtype, torch.float32))
    table = encoder.get_submodule("embedding").get_parameter("weight")
    with torch.no_grad():
        table.copy_(start)
    network: nn.Module = adapted
    network.register_forward_pre_hook(_beside_the_table)
    return network


def _beside_the_table(adapted: Any, _inputs: object) -> None:
    """Keep the numbers of virtual tokens where their table is: peft copies them there in each forward, and waits."""
    name = adapted.active_adapter
    device = adapted.prompt_encoder[name].embedding.weight.device
    adapted.prompt_tokens[name] = adapted.prompt_tokens[name].to(device)


def _at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ConfigurationError(f"{name} must be at least 1, got {number}")
