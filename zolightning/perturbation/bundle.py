"""Noise for all small parameters of a model in one call: norms, biases and small matrices cost launches, not work."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zolightning.perturbation.noise import TILE, Stream, gaussian_tiles, raw_tiles

# Elements in all: 4 MiB of float32, which no model notices and which stays in cache on its way.
LIMIT = 1 << 20


class Bundle:
    """Lays small parameters one after another, each from a tile of its own, and makes their noise together.

    The numbers are those that each parameter's own stream gives.

    Args:
        sizes: the number of elements of each parameter by name; the smallest are taken until `LIMIT` is reached.
        words: each parameter's counter word.
        device: where the parameters are.
    """

    def __init__(self, sizes: Mapping[str, int], words: Mapping[str, int], device: torch.device) -> None:
        self._places: dict[str, slice] = {}
        first_blocks, parameters, used = [], [], 0
        for name, size in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
            tiles = -(-size // TILE)
            if used + tiles * TILE > LIMIT:
                break
            self._places[name] = slice(used, used + size)
            first_blocks.append(torch.arange(tiles) * (TILE // 4))
            parameters.append(torch.full((tiles,), words[name], dtype=torch.int64))
            used += tiles * TILE
        if used:
            first = torch.cat(first_blocks).to(device).unsqueeze(1)
            self._blocks = first + torch.arange(TILE // 4, device=device)
            self._parameters = torch.cat(parameters).to(device).unsqueeze(1)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __bool__(self) -> bool:
        return bool(self._places)

    def gaussian(self, stream: Stream) -> dict[str, Tensor]:
        """Return every small parameter's direction, float32 [n] by name; the stream's parameter word is not read."""
        noise = gaussian_tiles(self._blocks, self._parameters, stream.words(self._blocks.device))
        return {name: noise[place] for name, place in self._places.items()}

    def raw(self, stream: Stream) -> dict[str, Tensor]:
        """Return every small parameter's random words, int64 [n] by name; the stream's parameter word is not read."""
        noise = raw_tiles(self._blocks, self._parameters, stream.words(self._blocks.device))
        return {name: noise[place] for name, place in self._places.items()}
