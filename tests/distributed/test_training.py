"""Two processes that train together: their weights are equal, and those of one process with the same batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.distributed import jobs
from tests.distributed.jobs import Weights
from tests.distributed.pair import Pair
from zolightning.strategies import (
    FOSGD,
    ZOSGD,
    BlockwiseZO,
    FOAdam,
    ForwardGradient,
    HybridZOFO,
    SparseMeZO,
    Strategy,
    ZOAdam,
    ZOSGDConservative,
    ZOSGDSign,
)

ZO: dict[str, Any] = {"lr": 1e-4, "eps": 1e-3}
STRATEGIES: list[Strategy] = [
    ZOSGD(**ZO),
    ZOAdam(**ZO),
    SparseMeZO(**ZO, keep_ratio=0.2),
    BlockwiseZO(ZOSGD(**ZO)),
    FOSGD(lr=1e-3, momentum=0.9),
]


def name_of(strategy: Strategy) -> str:
    return type(strategy).__name__


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def distance(a: Weights, b: Weights) -> float:
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=name_of)
def test_processes_end_with_the_same_bits_and_where_one_process_ends(strategy: Strategy, pair: Pair) -> None:
    # In float32 a weight that lies at the mask's threshold may be moved by the one and not by the other.
    settings = {"dtype": "float64"} if isinstance(strategy, SparseMeZO) else {}
    first, second = pair.run(jobs.train, 2, strategy, 30, None, settings)
    alone = jobs.train(1, strategy, 30, None, settings)
    assert same(first.weights, second.weights)
    # The mean of two halves' losses is rounded otherwise than that of the whole, and 1 / 2 eps makes 500 of that.
    assert distance(first.weights, alone.weights) < 1e-5
    assert first.metrics == second.metrics == pytest.approx(alone.metrics, rel=1e-3, abs=1e-3)
    assert first.forward_passes == alone.forward_passes


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        (ZOSGDConservative(**ZO), {}),
        (ForwardGradient(lr=1e-4), {"micro_batch_size": 3}),
        (HybridZOFO(ZOSGD(**ZO), FOAdam(lr=1e-4, weight_decay=0.1)), {"scheme": "lora"}),
        (FOSGD(lr=1e-3, clip_norm=0.1), {"micro_batch_size": 1}),
        (ZOSGD(**ZO, mask="snip", sparsity=0.5), {}),
        (ZOSGD(lr=1e-3, eps=1e-2), {"dtype": "bfloat16"}),
    ],
    ids=["conservative", "forward gradient", "hybrid", "clipped", "snip", "bfloat16"],
)
def test_every_kind_of_method_keeps_processes_equal(strategy: Strategy, settings: dict[str, Any], pair: Pair) -> None:
    # Batches of 3, so that shares are of 2 and 1; and a last one of 1, of which the second process has nothing.
    data = {"batch_size": 3, "num_train": 10}
    first, second = pair.run(jobs.train, 2, strategy, 8, data, settings)
    assert same(first.weights, second.weights)
    alone = jobs.train(1, strategy, 8, data, settings)
    if "dtype" not in settings:
        # Layers in bfloat16 are rounded otherwise in batches of other shapes, by more than a step moves the loss.
        assert distance(first.weights, alone.weights) < 1e-5
    assert first.forward_passes == alone.forward_passes


@pytest.mark.parametrize(
    "strategy",
    [
        ZOSGD(**ZO, num_queries=2),
        ZOAdam(**ZO, num_queries=4),
        SparseMeZO(**ZO, keep_ratio=0.2, num_queries=2),
        ZOSGDConservative(**ZO, num_queries=2, estimator="one_sided"),
        BlockwiseZO(ZOSGDSign(**ZO, num_queries=2), order="joint"),
        ForwardGradient(lr=1e-4, num_queries=2),
    ],
    ids=name_of,
)
def test_shared_queries_of_the_same_data_are_one_processs_queries_bit_for_bit(strategy: Strategy, pair: Pair) -> None:
    (first, losses), (second, _) = pair.run(jobs.optimise, strategy, 2, "queries")
    alone, expected = jobs.optimise(strategy, 1, "queries")
    assert same(first, second)
    assert same(first, alone)
    # What is told of the loss is a mean of means.
    assert losses == pytest.approx(expected, rel=1e-6)


def test_a_run_that_shares_queries_is_one_processs_if_all_have_its_batches(pair: Pair) -> None:
    strategy = ZOSGD(**ZO, num_queries=2)
    first, second = pair.run(jobs.train, 2, strategy, 12, None, {"ranks": "queries"}, jobs.Twice)
    alone = jobs.train(1, strategy, 12)
    assert same(first.weights, second.weights)
    assert same(first.weights, alone.weights)
    assert first.forward_passes * 2 == alone.forward_passes


def test_shared_queries_of_a_batch_that_is_too_small_count_nothing(pair: Pair) -> None:
    # Of one example the second process has nothing, and runs along: the step goes by the first one's query, twice.
    data = {"batch_size": 1, "num_train": 4}
    first, second = pair.run(jobs.train, 2, ZOSGD(**ZO, num_queries=2), 4, data, {"ranks": "queries"})
    assert same(first.weights, second.weights)
    assert distance(first.weights, jobs.train(1, ZOSGD(**ZO), 4, data).weights) < 1e-7


def test_queries_that_cannot_be_shared_are_refused_before_the_run(pair: Pair) -> None:
    for strategy, message in ((ZOSGD(**ZO, num_queries=3), "such as 4"), (FOSGD(lr=1e-3), "model.ranks: data")):
        for said in pair.run(jobs.refused, strategy, {"ranks": "queries"}):
            assert message in said


def test_processes_that_are_seeded_apart_take_the_firsts_seed(pair: Pair) -> None:
    first, second = pair.run(jobs.train_seeded_apart, ZOSGD(**ZO))
    assert first.seed == second.seed == 1
    assert same(first.weights, second.weights)


def test_weights_that_have_come_apart_are_noticed(pair: Pair) -> None:
    for said in pair.run(jobs.train_apart, ZOSGD(**ZO)):
        assert "different weights" in said


@pytest.mark.parametrize("use", ["data", "queries"])
def test_a_step_exchanges_scalars_alone(use: str, pair: Pair) -> None:
    for heard in pair.run(jobs.overhear, ZOSGD(**ZO, num_queries=2), use):
        losses = [size for name, size in heard if "allgather" in name]
        # In and out: a float of each process. Of queries two scalars and a projected gradient each, at once.
        assert losses == ([12] * 8 if use == "data" else [3 * 12] * 2)
        # What the memory profiler logs, a number of each phase, and whether to end: our flag, and Lightning's of int64.
        assert all(size <= 8 for name, size in heard if "allgather" not in name)
