"""Directions as functions: z[i] = N(seed, step, query, parameter name, i), never stored, the same wherever it is made.

Layout (version 1). Philox's key is the 64-bit run seed. Its counter words are: the block of the element index; a
32-bit hash of the parameter's fully qualified name; the step; the query (24 bits) and the lane (8 bits). A counter
yields four words. Elements come in tiles of 64 = 4 words x 16 counters: element i lies in tile i // 64, and within it
is word (i % 64) // 16 of counter i % 16. Sixteen neighbours thus share one instruction on a vector machine, and any
slice of any parameter can still be made on its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from zolightning.perturbation.philox import Words, philox4x32

LAYOUT_VERSION = 1
TILE = 64
_COUNTERS = 16
_LOW = 0xFFFFFFFF


class Lane(IntEnum):
    """What the random words of a step are used for; each use draws from its own stream."""

    DIRECTION = 0
    ROUNDING = 1
    MASK = 2


@dataclass(frozen=True)
class Stream:
    """One parameter's stream of random words.

    Args:
        seed: the run's seed, 64 bits.
        parameter: the parameter's word, from `parameter_words`.
        step: the optimizer step, 32 bits.
        query: the query within the step, 24 bits.
        lane: what the words are for.
    """

    seed: int
    parameter: int
    step: int
    query: int = 0
    lane: Lane = Lane.DIRECTION

    def words(self, device: torch.device, first_element: int = 0) -> Tensor:
        """Return the stream's place as an int64 tensor [6]: first block, parameter, step, lane, key low, key high.

        Raises:
            ValueError: if `first_element` is no multiple of the tile.
        """
        if first_element % TILE:
            raise ValueError(f"first_element must be a multiple of {TILE}, got {first_element}")
        values = (
            first_element // 4,
            self.parameter,
            self.step & _LOW,
            ((self.query << 8) | self.lane) & _LOW,
            self.seed & _LOW,
            (self.seed >> 32) & _LOW,
        )
        # Pinned memory lets the copy to an accelerator run without waiting for it.
        host = torch.tensor(values, dtype=torch.int64, pin_memory=device.type == "cuda")
        return host.to(device, non_blocking=True)


def parameter_words(names: Iterable[str]) -> dict[str, int]:
    """Give each fully qualified parameter name its 32-bit counter word: a hash, and another where two names collide.

    Args:
        names: the names of all parameters of a model; their order does not matter.
    """
    words: dict[str, int] = {}
    taken: set[int] = set()
    for name in sorted(names):
        salt = 0
        word = _hash32(name)
        while word in taken:
            salt += 1
            word = _hash32(f"{name}#{salt}")
        taken.add(word)
        words[name] = word
    return words


def _hash32(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


def blocks(words: Tensor, tiles: int) -> Tensor:
    """Return the block words of `tiles` tiles from the place that `words` [6] names, int64 [tiles, 16]."""
    return torch.arange(tiles * _COUNTERS, dtype=torch.int64, device=words.device).view(tiles, _COUNTERS) + words[0]


def random_words(block: Tensor, parameter: Tensor, words: Tensor) -> Words:
    """Make random words at counters.

    Args:
        block: block words, int64 [tiles, 16].
        parameter: parameter words, int64 [] or [tiles, 1].
        words: a stream's place, int64 [6]; its step, lane and key are read.

    Returns:
        Four int64 tensors [tiles, 16]; word j of the four holds elements 16 j to 16 j + 15 of each tile.
    """
    return philox4x32((block, parameter, words[2], words[3]), (words[4], words[5]))


def raw_tiles(block: Tensor, parameter: Tensor, words: Tensor) -> Tensor:
    """Return random 32-bit words in element order, int64 [tiles * 64]; arguments as `random_words`."""
    return torch.stack(random_words(block, parameter, words), dim=1).reshape(-1)


def gaussian_tiles(block: Tensor, parameter: Tensor, words: Tensor) -> Tensor:
    """Return standard normal numbers in element order, float32 [tiles * 64]; arguments as `random_words`.

    Box and Muller: z = sqrt(-2 ln u) (cos, sin)(2 pi v), with u in (0, 1] so that the logarithm is finite.
    """
    a, b, c, d = (_uniform(word) for word in random_words(block, parameter, words))
    radius_0, radius_1 = torch.sqrt(-2.0 * torch.log(a)), torch.sqrt(-2.0 * torch.log(c))
    angle_0, angle_1 = (2.0 * math.pi) * b, (2.0 * math.pi) * d
    parts = (
        radius_0 * torch.cos(angle_0),
        radius_0 * torch.sin(angle_0),
        radius_1 * torch.cos(angle_1),
        radius_1 * torch.sin(angle_1),
    )
    return torch.stack(parts, dim=1).reshape(-1)


def _uniform(word: Tensor) -> Tensor:
    return (word.to(torch.float32) + 0.5) * 2.0**-32


def stream_gaussian(words: Tensor, count: int) -> Tensor:
    """Return the first `count` normal numbers from the place that `words` [6] names, float32 [count]."""
    return _first(gaussian_tiles(blocks(words, -(-count // TILE)), words[1], words), count)


def stream_raw(words: Tensor, count: int) -> Tensor:
    """Return the first `count` random 32-bit words from the place that `words` [6] names, int64 [count]."""
    return _first(raw_tiles(blocks(words, -(-count // TILE)), words[1], words), count)


def _first(noise: Tensor, count: int) -> Tensor:
    # A branch of its own, since an uncut loop is the common case and compiles to better code.
    return noise if noise.numel() == count else noise[:count]


def gaussian(stream: Stream, start: int, stop: int, device: torch.device | None = None) -> Tensor:
    """Return elements `start` to `stop` of a stream's direction, float32 [stop - start].

    Example:
        >>> stream = Stream(seed=0, parameter=7, step=3)
        >>> whole = gaussian(stream, 0, 200)
        >>> torch.equal(whole[70:130], gaussian(stream, 70, 130))
        True
    """
    first = start // TILE * TILE
    place = stream.words(device or torch.device("cpu"), first)
    return stream_gaussian(place, stop - first)[start - first :]
