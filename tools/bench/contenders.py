"""Who is measured, and how many bytes a step of each moves by count.

Bytes are counted as the operations read and write them, and averaged over all weights of the model; caches are ignored.
`e` is the size of a weight, `u` the share of weights that a forward reads whole: all but embeddings and the output
head, of which only rows are looked up, too few to count.

- two_forwards: a read each, 2 e u.
- textbook_mezo: a pass draws z (1 write), multiplies it twice (2 reads, 2 writes) and adds it to the weight (2 reads,
  1 write), so 8 e, and there are four; two forwards read the head whole too, 2 e (u + head). In float16 its passes take
  the 64 bytes that were counted in the released code.
- in_forward: a probe reads the weight, writes scratch, and the forward reads that: 3 e u, twice; the update reads and
  writes every weight, 2 e (of `skip` those in use, 2 e u). A mask is made from what has been read.
- in_place: three passes that read and write, 6 e, and two forwards, 2 e u.
- signs are cut from words made just before, a bit a weight, written and read: 1/4 byte a pass over a weight. Stochastic
  rounding of half precision takes 16 bits, written and read: 4 bytes in the update.
- random masks are made from a word a weight, in registers; one that is kept (`snip`) is read, a bit a weight a pass.
- elementwise updates write the estimate, 4, and then read it, the weight and the state, and write weight and state:
  4 + 4 + 2 e + 8 a number of state.
- conservative: two probes more, and a forward.
- blockwise: two probes of each block, whose forwards read all others as they are: 2 e u for each block but one.
- forward_gradient: reads the weight, writes its tangent, and the forward reads both, twice the weight: 5 e u.
- hybrid: a forward more, e u; its upper part takes 2 e u for the probes' forwards, e for the backward and the 5 e of
  fo_sgd's update, as many as the 6 e u and 2 e of a dense step.
- fo_sgd: forward and backward read, 2 e u; every gradient is written, read for the norm, read for the update, which
  reads and writes the weight: 5 e.
- fo_adamw: as fo_sgd, but torch's operations of the update read and write 18 e: moments 8, denominator 6, weight 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from bench.textbook import TextbookMeZO
from bench.workload import Counts, Workload
from zolightning.perturbation.options import Distribution, EngineOptions, IdleRows, ProbeMode
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
    ZOSGDMomentum,
    ZOSGDSign,
)

# So small that the weights are the same for everybody, for all that a step can tell.
LR = 1e-8
EPS = 1e-3
KEEP_RATIO = 0.2

Step = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        name: of the row.
        start: makes whatever a step needs, and returns the step.
        bytes_per_weight: how many a step moves, by count.
        strategy: the class, if it is one.
        probe: the probe mode.
        distribution: of the directions.
        idle_rows: what is done to rows that are not in use.
        transient: whether its state is large, so that it is made anew for each turn and never in the others' way.
    """

    name: str
    start: Callable[[Workload], Step]
    bytes_per_weight: Callable[[Counts], float]
    strategy: str | None = None
    probe: ProbeMode | None = None
    distribution: Distribution | None = None
    idle_rows: IdleRows | None = None
    transient: bool = False


def contenders() -> list[Contender]:
    """Return all of them, in the order in which a round runs them."""
    return [
        Contender("two_forwards", _two_forwards, lambda n: 2 * n.size * n.used / n.total),
        Contender(
            "textbook_mezo",
            _textbook,
            lambda n: n.size * (32 + 2 * (n.used + n.head) / n.total),
            probe="in_place",
            distribution="gaussian",
        ),
        _zeroth("in_forward", "gaussian"),
        _zeroth("in_forward", "rademacher"),
        _zeroth("in_forward", "sphere"),
        _zeroth("in_place", "gaussian"),
        _zeroth("in_place", "rademacher"),
        _zeroth("in_place", "sphere"),
        _zeroth("in_forward", "gaussian", idle_rows="skip"),
        _zeroth("in_forward", "gaussian", sparse=True),
        _zeroth("in_forward", "rademacher", sparse=True),
        *_others(),
        _first("fo_sgd", FOSGD(lr=LR), 5),
        _first("fo_adamw", FOAdam(lr=LR), 20),
    ]


def _others() -> list[Contender]:
    """Return a row of every other strategy: Gaussian directions, probes in the forward."""
    plain = ZOSGD(lr=LR, eps=EPS)
    dense = partial(_zeroth_bytes, plain.engine)
    return [
        of_strategy("zo_sgd_random", ZOSGD(LR, EPS, mask="random", sparsity=1 - KEEP_RATIO), dense),
        of_strategy("zo_sgd_snip", ZOSGD(LR, EPS, mask="snip", sparsity=1 - KEEP_RATIO), lambda n: dense(n) + 3 / 8),
        of_strategy("zo_sgd_sign", ZOSGDSign(LR, EPS), lambda n: dense(n) + 8),
        of_strategy("zo_sgd_momentum", ZOSGDMomentum(LR, EPS), lambda n: dense(n) + 16),
        of_strategy("zo_adam", ZOAdam(LR, EPS), lambda n: dense(n) + 24),
        of_strategy(
            "zo_sgd_conservative", ZOSGDConservative(LR, EPS), lambda n: dense(n) + 7 * n.size * n.used / n.total
        ),
        of_strategy(
            "blockwise_zo", BlockwiseZO(plain), lambda n: dense(n) + 2 * (n.blocks - 1) * n.size * n.used / n.total
        ),
        of_strategy("forward_gradient", ForwardGradient(LR), lambda n: dense(n) - n.size * n.used / n.total),
        of_strategy(
            "hybrid_zofo",
            HybridZOFO(plain, FOSGD(LR), 1),
            lambda n: dense(n) + n.size * n.used / n.total,
        ),
    ]


def of_strategy(name: str, strategy: Strategy, moved: Callable[[Counts], float]) -> Contender:
    """Return the row of a strategy with Gaussian directions and probes in the forward, made anew for each turn."""
    return Contender(
        name,
        partial(_start, strategy),
        moved,
        strategy=type(strategy).__name__,
        probe="in_forward",
        distribution="gaussian",
        transient=True,
    )


def _zeroth(
    probe: ProbeMode, distribution: Distribution, *, idle_rows: IdleRows = "update", sparse: bool = False
) -> Contender:
    engine = EngineOptions(distribution=distribution, probe=probe, idle_rows=idle_rows)
    plain = ZOSGD(lr=LR, eps=EPS, engine=engine)
    strategy = SparseMeZO(lr=LR, eps=EPS, keep_ratio=KEEP_RATIO, engine=engine) if sparse else plain
    name = f"{'sparse_mezo' if sparse else 'zo_sgd'}_{probe}_{distribution}"
    return Contender(
        name if idle_rows == "update" else f"{name}_{idle_rows}",
        partial(_start, strategy),
        partial(_zeroth_bytes, engine),
        strategy=type(strategy).__name__,
        probe=probe,
        distribution=distribution,
        idle_rows=idle_rows,
    )


def _first(name: str, strategy: Strategy, writes: int) -> Contender:
    return Contender(
        name,
        partial(_start, strategy),
        lambda n: n.size * (2 * n.used / n.total + writes),
        strategy=type(strategy).__name__,
        transient=True,
    )


def _start(strategy: Strategy, work: Workload) -> Step:
    optimizer = strategy.configure(work.model, seed=0)
    return lambda: strategy.training_step(optimizer, work.loss)


def _two_forwards(work: Workload) -> Step:
    @torch.no_grad()
    def step() -> None:
        work.loss()
        work.loss()

    return step


def _textbook(work: Workload) -> Step:
    mezo = TextbookMeZO(work.model, LR, EPS)
    return lambda: mezo.step(work.textbook_loss)


def _zeroth_bytes(engine: EngineOptions, n: Counts) -> float:
    used = n.used / n.total
    updated = used if engine.idle_rows == "skip" else 1.0
    words = 0.25 if engine.distribution == "rademacher" else 0.0
    rounding = 4.0 if n.size == 2 and engine.rounding == "stochastic" else 0.0
    update = (2 * n.size + words + rounding) * updated
    if engine.probe == "in_place":
        return 2 * n.size * used + 2 * (2 * n.size + words) + update
    return 2 * (3 * n.size + words) * used + update
