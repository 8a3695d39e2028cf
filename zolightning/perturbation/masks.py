"""Masks as functions of the weight: an element is selected if its integer key is at most a threshold.

Nothing of a weight's size is stored: a mask is two integers per tensor, and is made anew from the true weights wherever
it is needed (Sparse-MeZO's "computing the mask in the forward pass", arXiv 2402.15751, section 3.4). Only a mask by
what is gone when it is needed, as gradients are, is kept: one bit a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zolightning.perturbation.bits import bits_of_rows, empty_bits, packed
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.noise import Stream, unit
from zolightning.perturbation.ranges import Kind, noise_at, placed, words_for
from zolightning.perturbation.rounding import wide, wide_dtype
from zolightning.perturbation.shards import Part

Score = Literal["magnitude", "large", "random", "snip"]

# What the numbers of masks that go by no magnitude are made as; a kept bit is a sign, that of a selected element minus.
NUMBERS: dict[Score, Kind] = {"random": "keys", "snip": "signs"}

_DIGIT_BITS = 16
# Whole units of every kind of noise.
_CHUNK = 1 << 20
_EAGER = Compiler(False, 0)
_INTEGER = {
    torch.float64: (torch.int64, 63),
    torch.float32: (torch.int32, 31),
}


@dataclass(frozen=True)
class Selection:
    """Which elements of one tensor are perturbed and updated.

    An element is selected if its key is below `threshold`, or equals it and its index is at most `cut`. The second
    clause breaks ties, which half-precision weights have in plenty, so that the selected fraction is exact.

    Args:
        score: what the key is: the magnitude, its reverse, a random word, or for `snip` a kept bit.
        threshold: int64 [].
        cut: int64 [].
        stream: where random keys come from.
        bits: for `snip`, see `zolightning.perturbation.bits`.
    """

    score: Score
    threshold: Tensor
    cut: Tensor
    stream: Stream
    bits: Tensor | None = None


def keys(score: Score, weight: Tensor, random: Tensor | None) -> Tensor:
    """Return each element's integer key, of the weight's shape; a smaller key is selected first.

    The bits of a non-negative float, read as an integer, are ordered as the floats are: searching them is exact.

    Args:
        score: `magnitude` selects small weights first, `large` large ones, `random` by a random word.
        weight: float, of any shape.
        random: random words of the weight's shape, int64, for `random`.
    """
    if score == "random":
        assert random is not None
        return random
    # Half-precision magnitudes are ordered as in float32, whose arithmetic a compiled loop is in anyway.
    integer, bits = _INTEGER[wide_dtype(weight.dtype)]
    magnitude = wide(weight).abs().view(integer)
    return magnitude if score == "magnitude" else (2**bits - 1) - magnitude


def ranks(score: Score, weight: Tensor, random: Tensor | None) -> Tensor:
    """Return numbers in the order of the `keys`: magnitudes themselves, since a compiled loop reads no float's bits."""
    if score in NUMBERS:
        assert random is not None
        return random
    magnitude = wide(weight).abs()
    return magnitude if score == "magnitude" else -magnitude


def level(selection: Selection, dtype: torch.dtype) -> Tensor:
    """Return the rank of a selection's threshold [], for weights of a dtype."""
    if selection.score in NUMBERS:
        return selection.threshold
    integer, bits = _INTEGER[wide_dtype(dtype)]
    large = selection.score == "large"
    key = (2**bits - 1) - selection.threshold if large else selection.threshold
    magnitude: Tensor = key.to(integer).view(wide_dtype(dtype))
    return -magnitude if large else magnitude


def selected(rank: Tensor, index: Tensor, level: Tensor, cut: Tensor) -> Tensor:
    """Return the mask, bool, of elements with the given ranks and indices."""
    return (rank < level) | ((rank == level) & (index <= cut))


def mask_of_rows(rank: Tensor, starts: Tensor, level: Tensor, cut: Tensor) -> Tensor:
    """Return the mask, bool, of rows with the given ranks [rows, width] and first indices [rows]."""
    return selected(rank, starts.unsqueeze(1) + torch.arange(rank.size(1), device=rank.device), level, cut)


def words_of_rows(selection: Selection, starts: Tensor, width: int, compiler: Compiler) -> Tensor:
    """Return what the numbers of rows are made from, for a selection by numbers [rows * units a row, 4, 16]."""
    if selection.bits is not None:
        return bits_of_rows(selection.bits, starts, width)
    return words_for(NUMBERS[selection.score], selection.stream, starts, width, compiler)


def mask_at(selection: Selection, weight: Tensor, starts: Tensor, compiler: Compiler) -> Tensor:
    """Return the mask of some elements of a weight, bool [rows, width].

    Args:
        selection: which elements are selected.
        weight: the elements, float [rows, width].
        starts: the index of each row's first element, int64 [rows].
        compiler: runs the generator compiled or eager.
    """
    numbers, width = None, weight.size(1)
    if selection.score in NUMBERS:
        words = words_of_rows(selection, starts, width, compiler)
        numbers = placed(NUMBERS[selection.score], words, starts, width)
    rank = ranks(selection.score, weight, numbers)
    return mask_of_rows(rank, starts, level(selection, weight.dtype), selection.cut)


def mask_of(selection: Selection, weight: Tensor, first: int = 0) -> Tensor:
    """Return the mask of a flat weight, from the element of a number on, bool [n]."""
    start = torch.full((1,), first, dtype=torch.int64, device=weight.device)
    return mask_at(selection, weight.unsqueeze(0), start, _EAGER)[0]


def kept(selection: Selection, weight: Tensor) -> Selection:
    """Return the selection that holds the mask which another has of a flat weight [n], whatever becomes of it."""
    bits = empty_bits(weight.numel(), weight.device)
    for first in range(0, weight.numel(), _CHUNK):
        start = torch.full((1,), first, dtype=torch.int64, device=weight.device)
        mask = mask_at(selection, weight[first : first + _CHUNK].unsqueeze(0), start, _EAGER)[0]
        words = packed(mask)[:-1]
        bits[first // unit(1) :][: words.size(0)] = words
    numbers = torch.tensor([0, -1], dtype=torch.int64, device=weight.device)
    return Selection("snip", numbers[0], numbers[1], selection.stream, bits)


def select_smallest(
    score: Score, weight: Tensor | Part, count: int, stream: Stream, compiler: Compiler | None = None
) -> Selection:
    """Find the selection that holds exactly `count` elements of a weight, in chunks, without sorting or copying it.

    Args:
        score: what the elements are ranked by.
        weight: float [n], flat; or this process's part of it, for all that hold one to find the same together.
        count: how many elements to select, 1 to the number of all.
        stream: the mask lane's stream of this parameter.
        compiler: runs the generator compiled; None eager.

    Raises:
        ValueError: if `count` is outside [1, n].
    """
    part = Part.all_of(weight) if isinstance(weight, Tensor) else weight
    flat = part.flat
    if not 1 <= count <= part.size:
        raise ValueError(f"count must lie in [1, {part.size}], got {count}")

    def chunks() -> Iterator[Tensor]:
        for start in range(0, flat.numel(), _CHUNK):
            some = flat[start : start + _CHUNK]
            random = None
            if score == "random":
                first = torch.full((1,), part.first + start, dtype=torch.int64, device=flat.device)
                random = noise_at("keys", stream, first, some.numel(), compiler or _EAGER)[0]
            yield keys(score, some, random).to(torch.int64)

    bits = 32 if score == "random" else _INTEGER[wide_dtype(flat.dtype)][1]
    threshold, ties, own = _kth_smallest(chunks, count, bits, part)
    cut = _index_of_tie(chunks, threshold, ties, own, part)
    as_tensor = torch.tensor([threshold, cut], dtype=torch.int64, device=flat.device)
    return Selection(score, as_tensor[0], as_tensor[1], stream)


def ranks_by_zero(selection: Selection, dtype: torch.dtype) -> bool:
    """Return whether a selection by magnitude, of weights of a dtype, ends at a magnitude of zero."""
    if selection.score in NUMBERS:
        return False
    zero = keys(selection.score, torch.zeros(1, dtype=dtype), None)
    return int(selection.threshold) == int(zero)


def _kth_smallest(chunks: Callable[[], Iterator[Tensor]], count: int, bits: int, part: Part) -> tuple[int, int, int]:
    """Return the count-th smallest key, and how many equal to it are among the `count` smallest and how many are here.

    A radix selection: one pass over the keys for each digit, a histogram of that digit among the keys that share the
    digits found so far. Histograms of parts add up.
    """
    prefix, remaining, own = 0, count, 0
    for shift in range(-(-bits // _DIGIT_BITS) * _DIGIT_BITS - _DIGIT_BITS, -1, -_DIGIT_BITS):
        histogram = torch.zeros(2**_DIGIT_BITS, dtype=torch.int64, device=part.flat.device)
        for chunk in chunks():
            matching = chunk[(chunk >> (shift + _DIGIT_BITS)) == prefix]
            histogram += torch.bincount((matching >> shift) & (2**_DIGIT_BITS - 1), minlength=2**_DIGIT_BITS)
        total = part.sum(histogram.clone()).cumsum(0)
        digit = int(torch.searchsorted(total, remaining))
        remaining -= int(total[digit - 1]) if digit else 0
        prefix, own = (prefix << _DIGIT_BITS) | digit, int(histogram[digit])
    return prefix, remaining, own


def _index_of_tie(chunks: Callable[[], Iterator[Tensor]], threshold: int, ties: int, own: int, part: Part) -> int:
    """Return the index of the `ties`-th key that equals the threshold, of which there are `own` in this part."""
    ties -= part.sum_before(own)
    index = part.first + _place_of_tie(chunks, threshold, ties) if 0 < ties <= own else 0
    # All but one process add nothing.
    return int(part.sum(torch.tensor(index, device=part.flat.device)))


def _place_of_tie(chunks: Callable[[], Iterator[Tensor]], threshold: int, ties: int) -> int:
    offset = 0
    for chunk in chunks():
        places = (chunk == threshold).nonzero().flatten()
        if ties <= places.numel():
            return offset + int(places[ties - 1])
        ties -= places.numel()
        offset += chunk.numel()
    raise AssertionError("the threshold is a key, so the tie is found")
