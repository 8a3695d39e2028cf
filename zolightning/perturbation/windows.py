"""Parts of a weight that begin and end anywhere, worked on as what the whole is worked on in.

Compiled and eager code, and code for tiles and for rows, differ in the last bit of a float. So that a shard gets the
bits that the whole weight has there, each of its elements goes through the code that it goes through in the whole: what
the shard holds of a window is laid into a buffer as large as the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from zolightning.perturbation.noise import unit

# Code for tiles serves two units or more.
_LEAST = 2 * unit(1)


def overlap(one: range, other: range) -> range:
    """Return the numbers that two ranges of successive numbers share.

    Example:
        >>> overlap(range(0, 10), range(7, 20)), len(overlap(range(0, 3), range(5, 9)))
        (range(7, 10), 0)
    """
    start = max(one.start, other.start)
    return range(start, max(start, min(one.stop, other.stop)))


def chunks_of(whole: range, size: int) -> Iterator[range]:
    """Yield a range in chunks of a size, the last of which may be smaller."""
    for start in range(whole.start, whole.stop, size):
        yield range(start, min(start + size, whole.stop))


def windows(part: range, chunk: range) -> Iterator[range]:
    """Yield windows that hold a part of a chunk, in order and apart: the chunk, or whole units, two or more.

    Args:
        part: the elements to be held.
        chunk: what they are a part of, from a multiple of `unit(1)` on. A window may reach beyond it.
    """
    if part == chunk:
        yield chunk
        return
    start = part.start
    while start < part.stop:
        first = start // unit(1) * unit(1)
        whole = (part.stop - start) // unit(1) * unit(1) if first == start else 0
        window = range(first, first + max(whole, _LEAST))
        yield window
        start = window.stop


@contextmanager
def framed(
    weight: Tensor, out: Tensor | None, first: int, held: range, window: range
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Give a window of a weight, and of what is made of it; what is made of the held elements is then in its place.

    Args:
        weight: the elements at hand, flat [n].
        out: what is to be written to [n], or None for the weight itself.
        first: the index of the first element at hand.
        held: the indices of the elements to be worked on, all at hand.
        window: the indices of what is given.
    """
    here, place = (slice(held.start - start, held.stop - start) for start in (first, window.start))
    if held == window:
        yield weight[here], None if out is None else out[here]
        return
    source = weight.new_zeros(len(window))
    source[place] = weight[here]
    target = None if out is None else out.new_empty(len(window))
    yield source, target
    if out is None or target is None:
        weight[here] = source[place]
    else:
        out[here] = target[place]
