"""Random words as functions: of the seed, the parameter's name, the step, the query and the element, never stored.

Layout (version 2). Philox's key is the 64-bit run seed. Its counter words are: the block; a 32-bit hash of the
parameter's fully qualified name; the step; the query (24 bits) and the lane (8 bits). A counter yields four words of 32
bits, and a word is cut into fields: one field of 32 bits for a normal number or a mask's random key, two of 16 bits for
rounding, 32 of one bit for signs. With k fields a word, elements come in units of 64 k = k fields x 4 words x 16
counters: element i lies in unit i // (64 k), and within it, at place p = i % (64 k), is field p // 64 of word
(p % 64) // 16 of counter p % 16. Sixteen neighbours thus share one instruction on a vector machine, a call of the
generator serves 4 k elements, and any slice of any parameter can be made on its own.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from zolightning.perturbation.philox import LOW, ROUNDS, Words, as_float, philox4x32, round_keys, signed

LAYOUT_VERSION = 2
TILE = 64
_COUNTERS = 16
_WORD_BITS = 32


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


class Counters(NamedTuple):
    """Where words are made, as a kernel takes it.

    Attributes:
        blocks: the first counter's block of each unit, int64 [units].
        parameter: the parameter's word, int64 [], or one for each unit [units, 1].
        place: the numbers 0 to 15, and, the same in each of sixteen lanes, step, query with lane, and the round keys of
            either key word [1, 23, 16]: a compiled loop then has two dimensions throughout and stays one loop, which
            keeps words in registers. The words are made in the dtype of its numbers, which are int64, or the bits of
            int32 in float32: code for a CPU reads a vector of floats at once, and one of integers by a detour.
    """

    blocks: Tensor
    parameter: Tensor
    place: Tensor


def parameter_words(names: Iterable[str]) -> dict[str, int]:
    """Give each fully qualified parameter name its 32-bit counter word: a hash, and another where two names collide.

    Args:
        names: the names of all parameters of a model; their order does not matter.
    """
    words: dict[str, int] = {}
    taken: set[int] = set()
    for name in sorted(names):
        salt = 0
        # torch.compile wraps a module in another, which is no other model.
        known = name.replace("_orig_mod.", "")
        word = _hash32(known)
        while word in taken:
            salt += 1
            word = _hash32(f"{known}#{salt}")
        taken.add(word)
        words[name] = word
    return words


def _hash32(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


def units(elements: int, bits: int) -> int:
    """Return how many units of counters serve so many elements with a field of `bits` bits each."""
    return -(-elements // unit(bits))


def unit(bits: int) -> int:
    """Return how many elements one unit of counters serves."""
    return TILE * (_WORD_BITS // bits)


def counters(
    stream: Stream, device: torch.device, count: int, first_unit: int = 0, dtype: torch.dtype = torch.int64
) -> Counters:
    """Return the counters of `count` successive units of a stream, whose words are to be made in a dtype."""
    blocks = firsts(device, count, first_unit, _COUNTERS)
    return Counters(blocks, parameter_on(stream.parameter, device), place_on(stream, device, dtype))


def firsts(device: torch.device, count: int, first: int = 0, size: int = TILE) -> Tensor:
    """Return the number of the first element of each of so many tiles, or things of another size, int64 [count]."""
    numbers = _multiples(size, device)
    numbers = numbers[:count] if count <= numbers.numel() else torch.arange(count, device=device) * size
    return numbers + first * size if first else numbers


def counters_at(
    stream: Stream, unit_numbers: Tensor, parameters: Tensor | None = None, dtype: torch.dtype = torch.int64
) -> Counters:
    """Return the counters of given units, int64 [units]; `parameters` [units, 1] replaces the stream's parameter."""
    device = unit_numbers.device
    if parameters is None:
        # Spelled out, so that one compiled kernel serves both cases.
        parameters = parameter_on(stream.parameter, device).expand(unit_numbers.numel(), 1).contiguous()
    return Counters(unit_numbers * _COUNTERS, parameters, place_on(stream, device, dtype))


def place_on(stream: Stream, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return a stream's place without its parameter [1, 23, 16]; see `Counters`."""
    return _place(stream.seed, stream.step & LOW, ((stream.query << 8) | stream.lane) & LOW, device, dtype)


@functools.lru_cache(maxsize=1 << 10)
def _place(seed: int, step: int, lane: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    low, high = round_keys(seed)
    words = torch.tensor([step, lane, *low, *high]).unsqueeze(1).expand(-1, _COUNTERS)
    host = torch.cat([torch.arange(_COUNTERS).unsqueeze(0), words]).unsqueeze(0)
    if dtype == torch.int32:
        host = signed(host).view(torch.float32)
    # Pinned memory lets the copy to an accelerator run without waiting for it.
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


@functools.lru_cache(maxsize=1 << 16)
def parameter_on(word: int, device: torch.device) -> Tensor:
    """Return a parameter's word on a device, int64 []; made once for each."""
    # Filled in on the device: a copy from the host would be waited for.
    return torch.full((), word, dtype=torch.int64, device=device)


@functools.cache
def _multiples(size: int, device: torch.device) -> Tensor:
    return torch.arange(1 << 14, device=device) * size


def word_planes(where: Counters) -> Words:
    """Make the four random words of every counter, each [units, 16], int64 or int32 as `philox4x32` has them."""
    blocks, parameter, place = where.blocks.unsqueeze(1), where.parameter, where.place
    if place.dtype == torch.float32:
        blocks, parameter, place = signed(blocks), signed(parameter), place.view(torch.int32)
    lanes, step, lane, *keys = place[0].unbind()
    return philox4x32((blocks + lanes, parameter, step, lane), keys[:ROUNDS], keys[ROUNDS:])


def gaussian_planes(where: Counters) -> Words:
    """Make four standard normal numbers of every counter, each float32 [units, 16].

    Box and Muller: z = sqrt(-2 ln u) (cos, sin)(2 pi v), with u in (0, 1] so that the logarithm is finite.
    """
    a, b, c, d = (as_float(word) for word in word_planes(where))
    (cos_0, sin_0), (cos_1, sin_1) = _on_circle(b * 2.0**-32), _on_circle(d * 2.0**-32)
    radius_0, radius_1 = (torch.sqrt(-2.0 * torch.log((word + 0.5) * 2.0**-32)) for word in (a, c))
    return radius_0 * cos_0, radius_0 * sin_0, radius_1 * cos_1, radius_1 * sin_1


def _on_circle(turns: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of an angle in turns, in [0, 1], with an error below 3e-7.

    A library's take any angle, which costs more. With t the angle less half a turn, and b = |t| - 1/4,
    cos(2 pi v) = sin(2 pi b), and sin(2 pi v) is -sign(t) sin(2 pi (1/4 - |b|)).
    """
    t = turns - 0.5
    b = t.abs() - 0.25
    sine = _sine(0.25 - b.abs())
    return _sine(b), torch.where(t > 0, -sine, sine)


def _sine(turns: Tensor) -> Tensor:
    """Return sin(2 pi y) for y in [-1/4, 1/4]: the odd polynomial of ninth degree of the least relative error, 5e-9."""
    square = turns * turns
    value = square * 39.710914 - 76.57499
    for coefficient in (81.60223, -41.341675, 6.2831855):
        value = value * square + coefficient
    return turns * value


def field_plane(words: Tensor, bits: int, tiles: int) -> Tensor:
    """Cut one of the four words of every counter into fields, in the order of the elements.

    Args:
        words: [units, 16], the words of one number, int32 or its bits in float32; see `Counters`.
        bits: of a field.
        tiles: how many tiles of 64 elements there are.

    Returns:
        Fields, int32 [tiles, 16]: those of the sixteen elements of each tile that words of this number serve.
    """
    numbers = torch.arange(tiles, device=words.device)
    count = _WORD_BITS // bits
    shifts = ((numbers % count) * bits).to(torch.int32).unsqueeze(1)
    # No index is outside, so none need be looked at.
    mine: Tensor = torch.ops.aten._unsafe_index(words, [numbers // count])
    cut: Tensor = (mine.view(torch.int32) >> shifts) & (2**bits - 1)
    return cut


def fields(words: Tensor, bits: int) -> Tensor:
    """Cut all words into fields in the order of the elements, int32 [units * 64 * fields a word], from [units, 4, 16].

    Fields of 32 bits come as signed numbers.
    """
    if bits == _WORD_BITS:
        return words.reshape(-1)
    shifts = torch.arange(0, _WORD_BITS, bits, dtype=torch.int32, device=words.device).view(-1, 1, 1)
    cut: Tensor = (words.unsqueeze(1) >> shifts) & (2**bits - 1)
    return cut.reshape(-1)


def draw(outs: Sequence[Tensor], where: Counters) -> None:
    """Write every counter's four words into as many tensors, int32 [units, 16]."""
    for out, word in zip(outs, word_planes(where), strict=True):
        out.copy_(signed(word))


def draw_gaussian(outs: Sequence[Tensor], where: Counters) -> None:
    """Write every counter's four normal numbers into as many tensors, float32 [units, 16]."""
    for out, plane in zip(outs, gaussian_planes(where), strict=True):
        out.copy_(plane)


def signs(bits: Tensor) -> Tensor:
    """Return 1 for a bit that is 0 and -1 for one that is 1, float32."""
    return 1.0 - 2.0 * bits.to(torch.float32)
