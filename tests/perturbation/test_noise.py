"""Directions: moments, distributions, independence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from zolightning.perturbation.directions import Directions
from zolightning.perturbation.noise import Lane, Stream
from zolightning.perturbation.ranges import Kind, range_of

STREAM = Stream(seed=2**40 + 3, parameter=77, step=5)
SIZE = 1 << 18
OTHERS = {
    "seed": replace(STREAM, seed=2**40 + 4),
    "high half of the seed": replace(STREAM, seed=3),
    "parameter": replace(STREAM, parameter=78),
    "step": replace(STREAM, step=6),
    "query": replace(STREAM, query=1),
    "rounding": replace(STREAM, lane=Lane.ROUNDING),
    "mask": replace(STREAM, lane=Lane.MASK),
}
KINDS: list[Kind] = ["gaussian", "signs"]
# Of an average over SIZE independent numbers of variance 1: exceeded once in 150,000 times.
BOUND = 4.5 / math.sqrt(SIZE)
# The 0.1 % point of Kolmogorov and Smirnov's statistic, over the root of the sample's size.
KOLMOGOROV = 1.95


def values(kind: Kind, stream: Stream, size: int = SIZE) -> Tensor:
    return range_of(kind, stream, 0, size).double()


def mean_product(a: Tensor, b: Tensor) -> float:
    return abs(float((a * b).mean()))


def distance(sample: Tensor, distribution: Tensor) -> float:
    """Return Kolmogorov and Smirnov's statistic for a sorted sample [n] and its distribution function there [n]."""
    steps = torch.arange(sample.numel() + 1, dtype=torch.float64) / sample.numel()
    gaps = torch.maximum((steps[1:] - distribution).abs(), (steps[:-1] - distribution).abs())
    return float(gaps.max())


def test_moments_are_those_of_a_standard_normal() -> None:
    z = values("gaussian", STREAM)
    assert abs(z.mean()) < BOUND
    assert abs((z**2).mean() - 1) < BOUND * math.sqrt(2)
    assert abs((z**3).mean()) < BOUND * math.sqrt(15)
    assert abs((z**4).mean() - 3) < BOUND * math.sqrt(96)


def test_normal_numbers_by_kolmogorov_and_smirnov() -> None:
    z = values("gaussian", STREAM).sort().values
    assert distance(z, torch.special.ndtr(z)) < KOLMOGOROV / math.sqrt(SIZE)


def test_signs_are_fair_and_nothing_else() -> None:
    z = values("signs", STREAM)
    assert set(z.tolist()) == {-1.0, 1.0}
    assert abs(z.mean()) < BOUND
    # Each of a word's 32 bits and each of the 64 places of a tile on its own.
    assert float(z.view(-1, 32, 64).mean((0, 2)).abs().max()) < BOUND * math.sqrt(32)
    assert float(z.view(-1, 64).mean(0).abs().max()) < BOUND * math.sqrt(64)


def test_halves_are_uniform() -> None:
    counts = torch.bincount(range_of("halves", replace(STREAM, lane=Lane.ROUNDING), 0, SIZE) >> 8, minlength=256)
    expected = SIZE / 256
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_squared - 255) < 4.5 * math.sqrt(2 * 255)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_streams_are_uncorrelated(other: Stream, kind: Kind) -> None:
    mine, theirs = values(kind, STREAM), values(kind, other)
    assert mean_product(mine, theirs) < BOUND
    if kind == "gaussian":
        assert mean_product(mine**2 - 1, theirs**2 - 1) < BOUND * 2


def test_lanes_are_uncorrelated_though_their_fields_differ() -> None:
    """Rounding must not lean with the direction, nor a random mask with either, even at the same counters."""
    signs = values("signs", STREAM)
    normal = values("gaussian", STREAM)
    halves = values("halves", replace(STREAM, lane=Lane.ROUNDING)) / 2**15 - 1
    keys = values("keys", replace(STREAM, lane=Lane.MASK)) / 2**31 - 1
    for one, other in ((signs, halves), (signs, keys), (normal, halves), (normal, keys), (halves, keys)):
        assert mean_product(one, other) < BOUND


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lag", [1, 2, 15, 16, 17, 32, 48, 63, 64, 65, 192, 2047, 2048])
def test_neighbours_are_uncorrelated(lag: int, kind: Kind) -> None:
    z = values(kind, STREAM)
    assert mean_product(z[lag:], z[:-lag]) < BOUND
    if kind == "gaussian":
        assert mean_product(z[lag:] ** 2 - 1, z[:-lag] ** 2 - 1) < BOUND * 2


class Parts(nn.Module):
    """Parameters of odd and even sizes, tables and vectors, so that each way of making noise has its share."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(37, 11)
        self.first = nn.Linear(64, 129)
        self.second = nn.Linear(7, 1)


def on_sphere(directions: Directions, place: Stream) -> dict[str, Tensor]:
    """Return every parameter's direction, as a probe at scale 1 adds it to weights of zero."""
    coefficients = directions.scaled(place, -torch.ones(1, dtype=torch.float64))
    z = {}
    for name, parameter in directions.parameters.items():
        z[name] = torch.zeros(parameter.numel(), dtype=torch.float64)
        directions.fill(z[name], z[name], directions.motion(name, [place], coefficients))
    return z


@pytest.mark.parametrize("query", [0, 3])
def test_on_the_sphere_all_parameters_together_have_the_norm_of_the_root_of_their_number(query: int) -> None:
    directions = Directions(Parts(), "sphere", False)
    z = torch.cat(list(on_sphere(directions, Stream(9, 0, step=2, query=query)).values()))
    assert z.numel() == 37 * 11 + 64 * 129 + 129 + 7 + 1
    assert abs(float(z.norm()) / math.sqrt(z.numel()) - 1) < 1e-6
    # It is one radius for all: each parameter is a share of it by its size, and no share is fixed.
    sizes = [float(part.norm()) / math.sqrt(part.numel()) for part in on_sphere(directions, Stream(9, 0, 3)).values()]
    assert len(set(sizes)) == len(sizes)


def test_a_coordinate_of_the_sphere_by_kolmogorov_and_smirnov() -> None:
    """On a sphere in three dimensions a coordinate is uniform (Archimedes), which no rescaled normal number is."""
    model = nn.Linear(2, 1)
    directions, count = Directions(model, "sphere", False), 400
    seen = torch.stack([on_sphere(directions, Stream(4, 0, step))["weight"] for step in range(count)])
    for coordinate in seen.T:
        ordered = coordinate.sort().values
        assert distance(ordered, ordered / (2 * math.sqrt(3)) + 0.5) < KOLMOGOROV / math.sqrt(count)


def test_a_coordinate_of_a_large_sphere_is_normal() -> None:
    z = torch.cat(list(on_sphere(Directions(Parts(), "sphere", False), Stream(5, 0, 0)).values())).sort().values
    assert distance(z, torch.special.ndtr(z)) < KOLMOGOROV / math.sqrt(z.numel())
