"""Several motions in few passes have the bits of one after the other, in eager and in compiled code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from zolightning.perturbation import motion
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.kernels import subtract_turns
from zolightning.perturbation.motion import TOGETHER, Motion, subtract, subtract_in_turn
from zolightning.perturbation.noise import Lane, Stream, unit
from zolightning.perturbation.ranges import Kind

STEPS = 2 * TOGETHER + 3


def motions(kind: Kind, dtype: torch.dtype, decay: bool = False, queries: int = 1) -> list[Motion]:
    """Return motions of some directions each, of which one is a skipped step's."""
    torch.manual_seed(0)
    made = []
    for step in range(STEPS):
        stream = Stream(seed=7, parameter=3, step=step)
        coefficients = torch.randn(queries, dtype=torch.promote_types(dtype, torch.float32)) * (step != 4)
        rounding = replace(stream, lane=Lane.ROUNDING) if dtype == torch.bfloat16 else None
        shrink = torch.tensor(0.01, dtype=coefficients.dtype) if decay else None
        streams = [replace(stream, query=query) for query in range(queries)]
        made.append(Motion(kind, streams, coefficients, shrink, rounding=rounding))
    return made


class Counting(Compiler):
    """A compiler that counts how often it runs several motions at once."""

    together = 0

    def run_each(
        self, kernel: Callable[..., None], smallest: int, arguments: Sequence[object], lasts: Sequence[list[Tensor]]
    ) -> None:
        """Run a kernel several times."""
        self.together += len(lasts) * (kernel is subtract_turns)
        super().run_each(kernel, smallest, arguments, lasts)


def both(weight: Tensor, moves: list[Motion], compiled: bool) -> tuple[Tensor, Tensor, int]:
    one, other = weight.clone(), weight.clone()
    compiler = Counting(compiled, 0)
    for move in moves:
        subtract(one, move, compiler)
    subtract_in_turn(other, moves, compiler)
    return one, other, compiler.together


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["gaussian", "signs"])
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("queries", [1, 2])
def test_the_bits_are_those_of_one_after_the_other(
    kind: Kind, dtype: torch.dtype, decay: bool, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for chunk in (motion._CHUNK, motion._TURNS_CHUNK):
        monkeypatch.setitem(chunk, "cpu", 2 * unit(1))
    weight = torch.randn(5 * unit(1) + 70, generator=torch.Generator().manual_seed(1)).to(dtype)
    one, other, together = both(weight, motions(kind, dtype, decay, queries), compiled=False)
    assert torch.equal(one, other)
    assert not torch.equal(one, weight)
    light = kind == "signs" and dtype != torch.bfloat16 and not decay and queries == 1
    # Three chunks, and elements beyond their whole tiles.
    assert together == (6 if light else 0)


@pytest.mark.slow
def test_compiled_code_has_the_same_bits() -> None:
    weight = torch.randn(4 * unit(1), generator=torch.Generator().manual_seed(1))
    one, other, together = both(weight, motions("signs", torch.float32), compiled=True)
    assert together == 2
    assert torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_a_part_has_the_bits_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process of several has it."""
    monkeypatch.setitem(motion._TURNS_CHUNK, "cpu", 2 * unit(1))
    whole = torch.randn(6 * unit(1), generator=torch.Generator().manual_seed(1))
    part, held = whole.clone(), range(300, 5 * unit(1))
    moves, compiler = motions("signs", torch.float32), Counting(False, 0)
    subtract_in_turn(whole, moves, compiler)
    here, compiler.together = part[held.start : held.stop], 0
    subtract_in_turn(here, moves, compiler, first=held.start, within=range(whole.numel()))
    assert torch.equal(here, whole[held.start : held.stop])
    # Of three chunks one is wholly here.
    assert compiler.together == 2
