"""The directions of a model: weights moved along them, whole, in rows, or all small ones at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from zolightning.perturbation.bundle import Bundle, are_light
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.masks import Selection, mask_of
from zolightning.perturbation.motion import Motion, moved_rows, subtract, subtract_in_turn, sum_into, summed_rows
from zolightning.perturbation.noise import Lane, Stream, parameter_words
from zolightning.perturbation.norm import squared_norm
from zolightning.perturbation.options import Distribution
from zolightning.perturbation.pieces import Piece, in_pieces
from zolightning.perturbation.ranges import Kind
from zolightning.perturbation.rounding import Rounding, wide_dtype
from zolightning.perturbation.shards import Part, local_part, reshard, units_of
from zolightning.perturbation.steps import Step, Turn

_HALF = (torch.bfloat16, torch.float16)
# Rows whose noise is made at once, in elements: it takes twelve bytes each for a while.
_ROWS_AT_ONCE = 1 << 22
# Small parameters' directions at one place take up to 4 MiB.
_PLACES_KEPT = 8


class Directions:
    """Moves the trainable parameters of a model along directions that are functions of counters.

    Args:
        model: the model.
        distribution: of the directions.
        compiled: whether to compile the kernels; None compiles from a million trainable weights on.
    """

    def __init__(self, model: nn.Module, distribution: Distribution, compiled: bool | None) -> None:
        # While a weight is gathered another parameter is in its place.
        self._units = units_of(model)
        reshard(self._units)
        self.parameters: dict[str, nn.Parameter] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.selections: dict[str, Selection] = {}
        self.moving = dict(self.parameters)
        self._words = parameter_words(name for name, _ in model.named_parameters())
        self._tables = {m.weight.shape for m in model.modules() if isinstance(m, nn.Embedding)}
        self.compiler = Compiler(compiled, sum(parameter.numel() for parameter in self.parameters.values()))
        self._kind: Kind = "signs" if distribution == "rademacher" else "gaussian"
        self._on_sphere = distribution == "sphere"
        self._bundle: Bundle | None = None
        self._kept: dict[Stream, dict[str, Tensor]] = {}
        self._masked: set[tuple[Stream, str]] = set()
        self._radii: dict[Stream, Tensor] = {}

    def move_only(self, names: Collection[str] | None) -> None:
        """Let all that follows move these parameters alone, or all trainable ones again."""
        self.moving = {name: p for name, p in self.parameters.items() if names is None or name in names}
        # A sphere's radius is that of what moves.
        self._radii.clear()

    def stream(self, name: str, place: Stream) -> Stream:
        """Return a parameter's stream at a place whose parameter word is not read."""
        # Spelled out: `replace` takes more than twice as long, once for every parameter and direction.
        return Stream(place.seed, self._words[name], place.step, place.query, place.lane)

    def forget(self) -> None:
        """Drop what is kept from probe to probe: a new step begins, or somebody else may have moved the weights."""
        self._drop_small()
        self._radii.clear()

    def _drop_small(self) -> None:
        self._kept.clear()
        self._masked.clear()

    def scaled(self, place: Stream, values: Tensor) -> Tensor:
        """Return factors of the numbers that counters give [...], for given factors of a direction [...].

        They differ on the sphere alone: z = sqrt(d) n / |n|, of which the norm is found from the counters, once a step.
        """
        if not self._on_sphere:
            return values
        if place not in self._radii:
            sizes = {name: weight.numel() for name, weight in self.moving.items()}
            streams = {name: self.stream(name, place) for name in sizes}
            device = next(iter(self.parameters.values())).device
            norm = squared_norm(sizes, streams, device, self.compiler).sqrt()
            self._radii[place] = math.sqrt(sum(sizes.values())) / norm
        return values * self._radii[place].to(values.device, values.dtype)

    def is_small(self, name: str) -> bool:
        """Return whether a parameter's direction is made together with those of all small ones."""
        return name in self._bundle_here()

    def small(self, name: str, part: Part, place: Stream) -> Tensor:
        """Return a small parameter's masked direction [n], kept while probes and update ask for the same place.

        Args:
            name: of the parameter.
            part: its elements, as they are when they are not perturbed; the mask goes by them.
            place: the step and query.
        """
        if place not in self._kept:
            if len(self._kept) >= _PLACES_KEPT:
                self._drop_small()
            self._kept[place] = self._bundle_here().noise(self._kind, place)
        z = self._kept[place][name][part.first : part.first + part.flat.numel()]
        if name in self.selections and (place, name) not in self._masked:
            # In place, so that a mask takes no memory of its own.
            z.masked_fill_(~mask_of(self.selections[name], part.flat, part.first), 0.0)
            if part.flat.numel() == part.size:
                self._masked.add((place, name))
        return z.to(wide_dtype(part.flat.dtype))

    def motion(
        self,
        name: str,
        places: Sequence[Stream],
        coefficients: Tensor,
        decay: Tensor | None = None,
        rounding: Rounding = "nearest",
    ) -> Motion:
        """Return the subtraction of sum_i coefficients[i] z_i + decay theta from a parameter's selected weights.

        Args:
            name: of the parameter.
            places: the step and query of each direction.
            coefficients: of the counters' numbers, in the dtype of the weight's arithmetic [queries].
            decay: in that dtype too [], or None for no decay.
            rounding: how half-precision weights are rounded.
        """
        streams = [self.stream(name, place) for place in places]
        words = self._rounding_stream(name, places[0], rounding)
        return Motion(self._kind, streams, coefficients, decay, self.selections.get(name), words)

    def fill(self, out: Tensor, weight: Tensor, motion: Motion, first: int = 0) -> None:
        """Write what a motion leaves of a weight into `out`, both flat [n]; the first element is number `first`."""
        subtract(weight, motion, self.compiler, out, first)

    def move_rows(self, rows: Tensor, numbers: Tensor, motion: Motion) -> None:
        """Move rows [n, width], of given numbers in their table, int64 [n], some at a time."""
        for part, starts in _some_at_a_time(rows, numbers):
            part.copy_(moved_rows(part, starts, motion, self.compiler))

    def sum_into(self, out: Tensor, weight: Tensor, motion: Motion, first: int = 0) -> None:
        """Write a motion's sum of directions into `out`; both flat [n], the first element is number `first`."""
        sum_into(out, weight, motion, self.compiler, first)

    def rows_of(self, rows: Tensor, numbers: Tensor, motion: Motion) -> Tensor:
        """Return a motion's sum of directions for rows [n, width] of given numbers in their table, int64 [n]."""
        return torch.cat([summed_rows(*part, motion, self.compiler) for part in _some_at_a_time(rows, numbers)])

    def subtract(
        self, turns: Sequence[Turn], rounding: Rounding, only_rows: Mapping[str, Tensor] | None = None
    ) -> None:
        """Subtract sum_i coefficients[i] z_i + decay theta from every selected weight, for one turn after the other.

        Args:
            turns: what is subtracted; of several, as many as can be go through a weight in one pass.
            rounding: how half-precision weights are rounded.
            only_rows: for some parameters, the rows to be moved [n], in any order and with repetitions; all others of
                them stay.
        """
        reshard(self._units)
        small, on_counters = self._small(), [Turn(places, self.on_counters(places, steps)) for places, steps in turns]
        if self._kind == "signs" and are_light(on_counters, small, self.selections):
            self._bundle_here().subtract_in_turn(small, on_counters)
        else:
            for places, of in on_counters:
                for piece in self._pieces(small, places, of, rounding):
                    piece.subtract(piece.estimate, of[piece.name].decay)
        for name, parameter in self._large().items():
            motions = [
                self.motion(name, places, of[name].coefficients, of[name].decay, rounding) for places, of in on_counters
            ]
            if only_rows is not None and name in only_rows:
                self._subtract_from_rows(parameter.detach().flatten(1), only_rows[name], motions)
            else:
                part = local_part(parameter)
                subtract_in_turn(part.flat, motions, self.compiler, part.first, range(part.size))
        self._moved()

    def _subtract_from_rows(self, table: Tensor, numbers: Tensor, motions: Sequence[Motion]) -> None:
        for motion in motions:
            moved = table[numbers]
            self.move_rows(moved, numbers, motion)
            # Repeated rows are written more than once, each time the same.
            table[numbers] = moved

    def pieces(self, places: Sequence[Stream], shares: Tensor, rounding: Rounding) -> Iterator[Piece]:
        """Yield all parameters in pieces of bounded size, each with sum_i shares[i] z_i.

        Args:
            places: the step and query of each direction.
            shares: each query's share of the projected gradient [queries].
            rounding: how half-precision weights are to be rounded.
        """
        reshard(self._units)
        of = self.on_counters(places, dict.fromkeys(self.moving, Step(shares, None)))
        yield from self._pieces(self._small(), places, of, rounding)
        for name, parameter in self._large().items():
            motion = self.motion(name, places, of[name].coefficients)
            words = self._rounding_stream(name, places[0], rounding)
            yield from in_pieces(name, local_part(parameter), motion, words, self.compiler)
        self._moved()

    def _pieces(
        self, parts: Mapping[str, Part], places: Sequence[Stream], of: Mapping[str, Step], rounding: Rounding
    ) -> Iterator[Piece]:
        """Yield small parameters, as far as they are here, with sum_i coefficients[i] z_i."""
        sums: dict[str, Tensor] = {}
        for query, place in enumerate(places):
            for name, part in parts.items():
                term = of[name].coefficients[query] * self.small(name, part, place)
                sums[name] = sums[name] + term if name in sums else term
        rounds = {name for name, part in parts.items() if rounding == "stochastic" and part.flat.dtype in _HALF}
        words = self._bundle_here().noise("halves", _rounding_place(places[0])) if rounds else {}
        for name, part in parts.items():
            weight, selection = part.flat, self.selections.get(name)
            mask = None if selection is None else mask_of(selection, weight, part.first)
            own = words[name][part.first : part.first + weight.numel()] if name in rounds else None
            yield Piece(name, 0, weight, sums[name], mask, own)

    def _small(self) -> dict[str, Part]:
        return {name: local_part(parameter) for name, parameter in self.moving.items() if self.is_small(name)}

    def _large(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.moving.items() if not self.is_small(name)}

    def _rounding_stream(self, name: str, place: Stream, rounding: Rounding) -> Stream | None:
        if rounding == "nearest" or self.parameters[name].dtype not in _HALF:
            return None
        return self.stream(name, _rounding_place(place))

    def _moved(self) -> None:
        """Drop what was made of weights that have moved."""
        self._drop_small()
        # Within one autocast context, casts of the weights are kept, and not known to be of weights that have moved.
        torch.clear_autocast_cache()

    def on_counters(self, places: Sequence[Stream], steps: Mapping[str, Step]) -> dict[str, Step]:
        """Return each parameter's step in factors of the counters' numbers, on its device and in its arithmetic."""
        made: dict[tuple[int, torch.device, torch.dtype], Step] = {}
        of: dict[str, Step] = {}
        for name, parameter in self.moving.items():
            # Many parameters share a step; each copy of one would be a launch.
            key = (id(steps[name]), parameter.device, parameter.dtype)
            if key not in made:
                step = steps[name].to(parameter)
                scaled = [self.scaled(place, step.coefficients[query]) for query, place in enumerate(places)]
                made[key] = replace(step, coefficients=torch.stack(scaled))
            of[name] = made[key]
        return of

    def _bundle_here(self) -> Bundle:
        """Return the bundle, made on first use: by then the model is on its device.

        Embeddings are left out, and what has the shape of one, as output heads do: of them a probe makes the rows alone
        that are looked up, and notes which.
        """
        if self._bundle is None:
            device = next(iter(self.parameters.values())).device
            sizes = {
                name: weight.numel()
                for name, weight in self.parameters.items()
                if weight.device == device and weight.shape not in self._tables
            }
            self._bundle = Bundle(sizes, self._words, device, self.compiler)
        return self._bundle


def _some_at_a_time(rows: Tensor, numbers: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of the rows [n, width] of a table, each with the number of every row's first element."""
    width = rows.size(1)
    at_once = max(1, _ROWS_AT_ONCE // width)
    for first in range(0, numbers.numel(), at_once):
        yield rows[first : first + at_once], numbers[first : first + at_once] * width


def _rounding_place(place: Stream) -> Stream:
    """Return where a step's words for rounding begin: they are the same whatever is asked at the step."""
    return replace(place, query=0, lane=Lane.ROUNDING)
