"""Noise for all small parameters of a model in one call: norms, biases and small matrices cost launches, not work."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.noise import Stream, unit, units
from zolightning.perturbation.ranges import BITS, Kind, in_order, made

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
        bits = BITS[kind]
        if bits not in self._layouts:
            self._layouts[bits] = _Layout(self._sizes, self._words, bits, self._device)
        layout = self._layouts[bits]
        values = in_order(kind, made(kind, stream, layout.numbers, layout.parameters, self._compiler))
        return {name: values[place] for name, place in layout.places.items()}


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
        self.numbers = torch.cat(numbers).to(device)
        self.parameters = torch.cat(parameters).to(device)
