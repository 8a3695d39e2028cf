"""The engine: probes and updates a model's trainable parameters along directions that are functions of counters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from zolightning.errors import ConfigurationError
from zolightning.perturbation.directions import Directions
from zolightning.perturbation.in_forward import InForward
from zolightning.perturbation.in_place import InPlace
from zolightning.perturbation.masks import Selection
from zolightning.perturbation.noise import Stream
from zolightning.perturbation.options import DEFAULT, EngineOptions
from zolightning.perturbation.pieces import Piece
from zolightning.perturbation.probe import Probe, along
from zolightning.perturbation.scratch import Scratch
from zolightning.perturbation.shards import is_sharded
from zolightning.perturbation.steps import Step, Turn
from zolightning.perturbation.tangents import Tangents

__all__ = ("Engine", "Step", "Turn")


class Engine:
    """Probes and moves the trainable parameters of a model.

    Args:
        model: the model.
        options: how.

    Raises:
        ConfigurationError: if a trainable parameter is not contiguous in memory, or idle rows are to be skipped of
            weights that are sharded over processes.
    """

    def __init__(self, model: nn.Module, options: EngineOptions = DEFAULT) -> None:
        self.options = options
        self.directions = Directions(model, options.distribution, options.compiled)
        names = {parameter: name for name, parameter in self.parameters.items()}
        self._in_place = InPlace(self.directions) if options.probe == "in_place" else None
        self._in_forward = InForward(model, names)
        self._scratch = Scratch()
        self._visited: set[str] = set()
        self._rows: dict[str, list[Tensor] | None] = {}
        self._noting = True
        for name, parameter in self.parameters.items():
            if not parameter.is_contiguous():
                raise ConfigurationError(f"{name} is not contiguous in memory: make it so before it is optimised")
        if self.sharded and options.idle_rows == "skip":
            raise ConfigurationError(
                "engine.idle_rows: skip goes by the rows that this process looks up, and the weights are sharded over "
                "several: use engine.idle_rows: update"
            )

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return self.directions.parameters

    @property
    def sharded(self) -> bool:
        """Whether a trainable parameter is spread over processes."""
        return any(is_sharded(parameter) for parameter in self.parameters.values())

    @property
    def selections(self) -> dict[str, Selection]:
        """The masks of sparse methods by parameter name; a parameter without one is dense."""
        return self.directions.selections

    def stream(self, name: str, place: Stream) -> Stream:
        """Return a parameter's stream at a place whose parameter word is not read."""
        return self.directions.stream(name, place)

    def begin_step(self) -> None:
        """Drop what is kept from probe to probe, and note anew which rows the first probe looks up."""
        self.directions.forget()
        self._rows.clear()
        self._noting = True

    @contextmanager
    def perturbed(self, place: Stream, scale: float) -> Iterator[None]:
        """Let the forwards within see theta + scale z, for z at a step and query."""
        if self._in_place is not None:
            self._in_place.move_to(place, scale)
            yield
            return
        coefficients = along(self.directions, place, scale)
        probe = Probe(self.directions, [place], coefficients, self._scratch, self._visit)
        with self._in_forward.perturbed(probe.stand_in, self._scratch, self.directions.moving):
            yield
        # All probes of a step see the same data.
        self._noting = False

    @contextmanager
    def displaced(self, places: list[Stream], steps: Mapping[str, Step]) -> Iterator[None]:
        """Let the forwards within see theta - sum_i coefficients[i] z_i, without decay; not for in-place probes.

        Args:
            places: the step and query of each direction.
            steps: each parameter's coefficients, by name.
        """
        of = self.directions.on_counters(places, steps)
        probe = Probe(self.directions, places, lambda name, _: of[name].coefficients, self._scratch, self._visit)
        with self._in_forward.perturbed(probe.stand_in, self._scratch, self.directions.moving):
            yield

    @contextmanager
    def differentiated(self, place: Stream) -> Iterator[None]:
        """Let the losses of forwards within have the tangent <grad f, z>, for z at a step and query.

        Attention runs as plain matrix products, because the fused kernels of scaled dot-product attention have no
        forward derivative. Not for in-place probes.
        """
        tangents = Tangents(self.directions, place, self._visit)
        perturbed = self._in_forward.perturbed(tangents.stand_in, tangents, self.directions.moving)
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), perturbed:
            yield
        self._noting = False

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Let modules find NaN where they read a weight elsewhere than through its own module, or after its forward."""
        with self._in_forward.hidden(), self._scratch.spoiled():
            yield

    @contextmanager
    def only(self, names: Collection[str]) -> Iterator[None]:
        """Let probes and updates within move these parameters alone; they begin and end where the weights belong."""
        self.directions.move_only(names)
        self._noting = True
        try:
            yield
        finally:
            self.restore()
            self.directions.move_only(None)

    def unvisited(self) -> list[str]:
        """Return the trainable parameters that no probe so far has used through their modules, in order."""
        return sorted(self.parameters.keys() - self._visited) if self._in_place is None else []

    def restore(self) -> None:
        """Put the weights back where they belong, after a step that ended early."""
        if self._in_place is not None:
            self._in_place.restore()

    def update(self, places: Sequence[Stream], steps: Mapping[str, Step]) -> None:
        """Subtract sum_i coefficients[i] z_i + decay theta from every selected weight.

        Args:
            places: the step and query of each direction.
            steps: each parameter's coefficients and decay, by name.
        """
        rounding = self.options.rounding
        if self._in_place is not None:
            places, merged = self._in_place.homeward(places, steps)
            self.directions.subtract([Turn(places, merged)], rounding)
            self._in_place.arrived()
            return
        only = None
        if self.options.idle_rows == "skip":
            only = {name: torch.cat(rows) for name, rows in self._rows.items() if rows is not None}
        self.directions.subtract([Turn(places, steps)], rounding, only)

    def update_in_turn(self, turns: Sequence[Turn]) -> None:
        """Do what as many calls of `update` would in fewer passes; not for in-place probes or idle rows that stay."""
        self.directions.subtract(turns, self.options.rounding)

    def pieces(self, places: list[Stream], shares: Tensor) -> Iterator[Piece]:
        """Yield all parameters in pieces of bounded size, each with sum_i shares[i] z_i, from where they belong.

        Args:
            places: the step and query of each direction.
            shares: each query's share of the projected gradient [queries].
        """
        self.restore()
        yield from self.directions.pieces(places, shares, self.options.rounding)

    def run(self, kernel: Callable[..., None], weight: Tensor, *arguments: object) -> None:
        """Run a kernel on the elements of a weight, compiled where that pays; see `Compiler.run`.

        Args:
            kernel: takes the elements and the arguments, and writes into tensors among them.
            weight: the elements [n].
            arguments: tensors [n] or [], and values that tell one code from another.
        """
        self.directions.compiler.run(kernel, weight.numel(), weight, *arguments)

    def _visit(self, name: str, rows: Tensor | None) -> None:
        self._visited.add(name)
        if not self._noting:
            return
        if rows is None:
            self._rows[name] = None
        elif (known := self._rows.setdefault(name, [])) is not None:
            known.append(rows)
