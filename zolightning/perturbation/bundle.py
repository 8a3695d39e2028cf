"""Noise for all small parameters of a model in one call: norms, biases and small matrices cost launches, not work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.kernels import stepped
from zolightning.perturbation.masks import Selection
from zolightning.perturbation.noise import Stream, unit, units
from zolightning.perturbation.ranges import BITS, Kind, in_order, made
from zolightning.perturbation.rounding import wide_dtype
from zolightning.perturbation.shards import Part
from zolightning.perturbation.steps import Turn

# Elements in all: 4 MiB of float32, which no model notices and which stays in cache on its way.
LIMIT = 1 << 20
# Of one parameter; above, a kernel of its own is the faster way.
_LARGEST = 1 << 15


class Bundle:
    """Lays small parameters one after another and makes their noise together.

    The numbers are those that each parameter's own stream gives.

    Args:
        sizes: the number of elements of each parameter by name; the smallest are taken, up to `LIMIT` in all.
        words: each parameter's counter word.
        device: where the parameters are.
        compiler: runs the generator compiled or eager.
    """

    def __init__(
        self, sizes: Mapping[str, int], words: Mapping[str, int], device: torch.device, compiler: Compiler
    ) -> None:
        self._sizes: dict[str, int] = {}
        self._words = words
        self._device = device
        self._compiler = compiler
        self._layouts: dict[int, _Layout] = {}
        used = 0
        for name, size in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
            used += size
            if used > LIMIT or size > _LARGEST:
                break
            self._sizes[name] = size

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def noise(self, kind: Kind, stream: Stream) -> dict[str, Tensor]:
        """Return every small parameter's noise [n] by name; the stream's parameter word is not read."""
        if not self._sizes:
            return {}
        layout = self._layout(kind)
        values = self._values(kind, stream, layout)
        return {name: values[place] for name, place in layout.places.items()}

    def subtract_in_turn(self, parts: Mapping[str, Part], turns: Sequence[Turn]) -> None:
        """Subtract directions of signs from small parameters, one after the other, with the bits of doing each alone.

        Args:
            parts: what is at hand of each parameter.
            turns: ones that `are_light`.
        """
        layout, some = self._layout("signs"), next(iter(parts))
        starts = {name: layout.places[name].start + part.first for name, part in parts.items()}
        flat = parts[some].flat.new_zeros(layout.size)
        for name, part in parts.items():
            flat[starts[name] :][: part.flat.numel()] = part.flat
        for places, of in turns:
            z = self._values("signs", places[0], layout).to(flat.dtype)
            flat = stepped(flat, of[some].coefficients[0] * z, None)
        for name, part in parts.items():
            part.flat.copy_(flat[starts[name] :][: part.flat.numel()])

    def _layout(self, kind: Kind) -> _Layout:
        bits = BITS[kind]
        if bits not in self._layouts:
            self._layouts[bits] = _Layout(self._sizes, self._words, bits, self._device)
        return self._layouts[bits]

    def _values(self, kind: Kind, stream: Stream, layout: _Layout) -> Tensor:
        return in_order(kind, made(kind, stream, layout.numbers, layout.parameters, self._compiler))


def are_light(turns: Sequence[Turn], parts: Mapping[str, Part], selections: Mapping[str, Selection]) -> bool:
    """Return whether turns along signs can be taken with all small parameters in one tensor, and there are several.

    That is with one direction each, the same coefficient for all, no decay, no mask, and nothing to be rounded.
    """
    dtypes = {part.flat.dtype for part in parts.values()}
    if len(turns) < 2 or len(dtypes) != 1 or dtypes != set(map(wide_dtype, dtypes)) or selections.keys() & parts.keys():
        return False
    some = next(iter(parts))
    return all(
        len(places) == 1 and of[some].decay is None and all(of[name] is of[some] for name in parts)
        for places, of in turns
    )


class _Layout:
    """Where each parameter lies when fields have so many bits: in units of its own."""

    def __init__(self, sizes: Mapping[str, int], words: Mapping[str, int], bits: int, device: torch.device) -> None:
        self.places: dict[str, slice] = {}
        numbers, parameters, start = [], [], 0
        for name, size in sizes.items():
            count = units(size, bits)
            self.places[name] = slice(start, start + size)
            numbers.append(torch.arange(count))
            parameters.append(torch.full((count, 1), words[name], dtype=torch.int64))
            start += count * unit(bits)
        self.size = start
        self.numbers = torch.cat(numbers).to(device)
        self.parameters = torch.cat(parameters).to(device)
