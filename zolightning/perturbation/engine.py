"""The engine: perturbs and updates a model's trainable parameters along directions that are functions of counters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zolightning.errors import ConfigurationError
from zolightning.perturbation.bundle import Bundle
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.in_forward import InForward
from zolightning.perturbation.kernels import Rounding, perturb_into, subtract_, update_, wide, wide_dtype
from zolightning.perturbation.masks import Selection, mask_of
from zolightning.perturbation.noise import Lane, Stream, parameter_words

_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Step:
    """How far a parameter moves.

    Args:
        coefficients: learning rate times each query's share of the projected gradient, float32 or float64 [queries].
        decay: learning rate times weight decay [].
    """

    coefficients: Tensor
    decay: Tensor


class Engine:
    """Probes and moves the trainable parameters of a model.

    Args:
        model: the model.
        compiled: whether to compile the kernels; None compiles for a million trainable weights or more.

    Raises:
        ConfigurationError: if a trainable parameter is not contiguous in memory.
    """

    def __init__(self, model: nn.Module, compiled: bool | None = None) -> None:
        trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.parameters: dict[str, nn.Parameter] = dict(trainable)
        self.selections: dict[str, Selection] = {}
        self._words = parameter_words(name for name, _ in model.named_parameters())
        self._in_forward = InForward(model, {parameter: name for name, parameter in trainable})
        sizes = {name: parameter.numel() for name, parameter in trainable}
        self._compiler = Compiler(compiled, sum(sizes.values()))
        self._sizes = sizes
        self._bundle: Bundle | None = None
        self._kept: tuple[Stream, dict[str, Tensor]] | None = None
        self._unvisited: set[str] | None = set(self.parameters)
        for name, parameter in trainable:
            if not parameter.is_contiguous():
                raise ConfigurationError(f"{name} is not contiguous in memory: make it so before it is optimised")

    def stream(self, name: str, place: Stream) -> Stream:
        """Return a parameter's stream at a place whose parameter word is not read."""
        return replace(place, parameter=self._words[name])

    def perturbed(self, place: Stream, scale: float) -> AbstractContextManager[None]:
        """Let the forwards within see theta + scale z, for z at a step and query; theta itself does not move."""
        small = self._small_directions(place)
        scales: dict[tuple[torch.device, torch.dtype], Tensor] = {}

        def perturb(name: str, weight: Tensor, out: Tensor) -> None:
            if self._unvisited:
                self._unvisited.discard(name)
            kind = (weight.device, wide_dtype(weight.dtype))
            if kind not in scales:
                scales[kind] = torch.full((), scale, dtype=kind[1], device=kind[0])
            if name in small:
                out.copy_(wide(weight) + scales[kind] * small[name])
                return
            stream, selection = self.stream(name, place), self.selections.get(name)
            perturb_into(out, weight, scales[kind], stream, selection, self._compiler)

        return self._in_forward.perturbed(perturb)

    def forget(self) -> None:
        """Drop what is kept from probe to probe: somebody else may have moved the weights, and masks with them."""
        self._kept = None

    def check_visits(self) -> None:
        """Check, once, that the forwards so far have used every trainable parameter through its module.

        Raises:
            ConfigurationError: naming the parameters that no probe has perturbed: a step would move them at random.
        """
        if self._unvisited:
            raise ConfigurationError(
                f"no forward of the closure used {', '.join(sorted(self._unvisited))} through its module, so that it "
                "cannot be perturbed: freeze it with requires_grad_(False), or call the module that holds it"
            )
        self._unvisited = None

    def update(self, places: list[Stream], steps: Mapping[str, Step], rounding: Rounding) -> None:
        """Subtract sum_i coefficients[i] z_i + decay theta from every selected weight.

        Args:
            places: the step and query of each direction.
            steps: each parameter's coefficients and decay, by name.
            rounding: how half-precision weights are rounded.
        """
        rounding_place = replace(places[0], query=0, lane=Lane.ROUNDING)
        small = self._small_changes(places, steps)
        rounds = {n for n, p in self.parameters.items() if rounding == "stochastic" and p.dtype in _HALF}
        small_words = self._bundle.raw(rounding_place) if self._bundle and rounds & small.keys() else {}
        for name, parameter in self.parameters.items():
            weight = flat_view(parameter)
            dtype = wide_dtype(weight.dtype)
            decay = steps[name].decay.to(weight.device, dtype)
            if name in small:
                change = small[name] + self._masked(name, decay * wide(weight), weight)
                subtract_(weight, change, small_words[name] if name in rounds else None)
                continue
            update_(
                weight,
                steps[name].coefficients.to(weight.device, dtype),
                decay,
                [self.stream(name, place) for place in places],
                self.selections.get(name),
                self.stream(name, rounding_place) if name in rounds else None,
                self._compiler,
            )

    def _small_directions(self, place: Stream) -> dict[str, Tensor]:
        """Return the masked directions of the small parameters, kept while probes and update ask for the same ones."""
        if self._kept is None or self._kept[0] != place:
            bundle = self._bundle_here()
            made = bundle.gaussian(place) if bundle else {}
            wides = {name: z.to(wide_dtype(self.parameters[name].dtype)) for name, z in made.items()}
            masked = {name: self._masked(name, z, flat_view(self.parameters[name])) for name, z in wides.items()}
            self._kept = (place, masked)
        return self._kept[1]

    def _small_changes(self, places: list[Stream], steps: Mapping[str, Step]) -> dict[str, Tensor]:
        changes: dict[str, Tensor] = {}
        for query, place in enumerate(places):
            for name, direction in self._small_directions(place).items():
                term = steps[name].coefficients[query].to(direction.device, direction.dtype) * direction
                changes[name] = changes[name] + term if name in changes else term
        self.forget()
        return changes

    def _masked(self, name: str, values: Tensor, weight: Tensor) -> Tensor:
        selection = self.selections.get(name)
        return values if selection is None else torch.where(mask_of(selection, weight), values, 0.0)

    def _bundle_here(self) -> Bundle:
        """Return the bundle, made on first use: by then the model is on its device."""
        if self._bundle is None:
            device = next(iter(self.parameters.values())).device
            sizes = {name: size for name, size in self._sizes.items() if self.parameters[name].device == device}
            self._bundle = Bundle(sizes, self._words, device)
        return self._bundle


def flat_view(weight: Tensor) -> Tensor:
    """Return a one-dimensional view of a contiguous weight that writes through to it."""
    return weight.detach().view(-1)
