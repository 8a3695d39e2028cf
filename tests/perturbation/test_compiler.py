"""Compiled and eager kernels agree, are few, and a missing compiler costs speed only."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.masks import Score, mask_of, select_smallest
from zolightning.perturbation.motion import Motion, moved_rows, subtract
from zolightning.perturbation.noise import Lane, Stream
from zolightning.perturbation.norm import squared_norm
from zolightning.perturbation.ranges import BITS, Kind, made, noise_at, range_of

ROOT = Path(__file__).resolve().parents[2]
STREAM = Stream(seed=2**63 + 5, parameter=6, step=7)
ROUNDING = replace(STREAM, lane=Lane.ROUNDING)
EAGER, COMPILED = Compiler(False, 0), Compiler(True, 0)
# Some whole units of every kind, and a tail that runs eager.
SIZE = 4 * 4096 + 37
# A float32 number's last bit is at most 1.2e-7 of it, and the logarithm, root and cosine that make a normal number may
# each differ in a few of theirs; 3e-7 was measured.
RELATIVE = 2e-6


def weights(dtype: torch.dtype) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.slow
def test_compiled_integers_are_the_eager_ones() -> None:
    kinds: tuple[Kind, ...] = ("signs", "halves", "keys")
    starts = torch.tensor([0, 5000, 77])
    for kind in kinds:
        numbers = torch.arange(SIZE // 64)
        eager, compiled = (made(kind, STREAM, numbers, None, compiler) for compiler in (EAGER, COMPILED))
        assert torch.equal(eager, compiled), kind
        rows = (noise_at(kind, STREAM, starts, 4100, compiler) for compiler in (EAGER, COMPILED))
        assert torch.equal(next(rows), next(rows)), kind
    assert COMPILED.enabled, "the compiler was given up"


@pytest.mark.slow
def test_compiled_normal_numbers_are_close_to_the_eager_ones() -> None:
    numbers = torch.arange(SIZE // 64)
    eager, compiled = (made("gaussian", STREAM, numbers, None, compiler) for compiler in (EAGER, COMPILED))
    torch.testing.assert_close(compiled, eager, rtol=RELATIVE, atol=0)
    norms = [squared_norm({"": SIZE}, {"": STREAM}, torch.device("cpu"), compiler) for compiler in (EAGER, COMPILED)]
    torch.testing.assert_close(norms[1], norms[0], rtol=RELATIVE, atol=0)
    assert COMPILED.enabled, "the compiler was given up"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "score", "kind"),
    [
        (torch.float32, None, "gaussian"),
        (torch.float32, "magnitude", "signs"),
        (torch.bfloat16, None, "signs"),
        (torch.bfloat16, "magnitude", "gaussian"),
        (torch.float16, "random", "gaussian"),
    ],
)
def test_compiled_kernels_do_as_eager_ones(dtype: torch.dtype, score: Score | None, kind: Kind) -> None:
    """Perturbing and updating; what differs are normal numbers in their last bits, and signs do not differ at all."""
    weight, selection = weights(dtype), None
    if score is not None:
        selection = select_smallest(score, weight, SIZE // 3, replace(STREAM, lane=Lane.MASK))
    rounding = None if dtype == torch.float32 else ROUNDING
    coefficients, decay = torch.tensor([0.01, -0.02]), torch.tensor(0.001)
    results = []
    for compiler in (EAGER, COMPILED):
        out, updated = torch.empty_like(weight), weight.clone()
        subtract(weight, Motion(kind, [STREAM], torch.tensor([-0.1]), selection=selection), compiler, out)
        streams = [STREAM, replace(STREAM, query=1)]
        subtract(updated, Motion(kind, streams, coefficients, decay, selection, rounding), compiler)
        assert compiler.enabled == (compiler is COMPILED), "the compiler was given up"
        results.append((out, updated))
    for eager, compiled in zip(*results, strict=True):
        if selection is not None:
            outside = ~mask_of(selection, weight)
            assert torch.equal(compiled[outside], weight[outside])
        if dtype == torch.float32:
            # Where a weight and its change cancel, the error is that of the change, 0.1 z with z below 5.
            torch.testing.assert_close(compiled, eager, rtol=RELATIVE, atol=0.5 * RELATIVE)
        else:
            # A last bit of float32 that decides which way a number is rounded decides a last bit of bfloat16: of two
            # neighbours 2^16 float32 numbers apart, so seldom, and by no more than the neighbour.
            torch.testing.assert_close(compiled, eager, rtol=torch.finfo(dtype).eps, atol=1e-6)
            assert int((compiled != eager).sum()) <= SIZE // 500
        if kind == "signs":
            assert torch.equal(compiled, eager)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "score"), [("gaussian", None), ("signs", "magnitude"), ("signs", "random")])
def test_compiled_rows_are_the_eager_ones(kind: Kind, score: Score | None) -> None:
    """Of any number, beginning anywhere in a unit, and wider than one."""
    for count, width in ((3, 100), (40, 100), (7, 100)):
        weight = torch.randn(50 * width, generator=torch.Generator().manual_seed(1)).bfloat16()
        selection = None
        if score is not None:
            selection = select_smallest(score, weight, 20 * width, replace(STREAM, lane=Lane.MASK))
        numbers = torch.arange(count)
        motion = Motion(kind, [STREAM], torch.tensor([0.1]), selection=selection, rounding=ROUNDING)
        rows, starts = weight.view(50, width)[numbers], numbers * width
        eager, compiled = (moved_rows(rows, starts, motion, compiler) for compiler in (EAGER, COMPILED))
        assert COMPILED.enabled, "the compiler was given up"
        assert int((eager != compiled).sum()) <= rows.numel() // 500


SCRIPT = """
import torch
from zolightning.optim import ZerothOrderOptimizer
from zolightning.perturbation import bundle
from zolightning.perturbation.compiler import Compilations
from tests.helpers.models import language_loss, llama

bundle.LIMIT = 1 << 14  # All matrices of this model are large.
sizes = dict(hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
model = llama(vocab_size=6000, tie_word_embeddings=False, **sizes)
optimizer = ZerothOrderOptimizer(model, lr=1e-4, eps=1e-3)
for rows, length in ((2, 16), (3, 21), (4, 26)):
    batch = torch.randint(0, 6000, (rows, length))
    optimizer.step(lambda: language_loss(model, batch))
    print(Compilations.number, Compilations.seconds > 0)
"""


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, from the repository's root."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_model_needs_few_compilations_whatever_its_shapes() -> None:
    """Perturb, update, and the generator for look-ups and small parameters: 4 were measured, and none after a step."""
    done = run(SCRIPT)
    assert done.returncode == 0, done.stderr
    numbers = [line.split() for line in done.stdout.splitlines()]
    assert [compiled for _, compiled in numbers] == ["True"] * 3
    assert int(numbers[0][0]) <= 5
    assert numbers[0] == numbers[1] == numbers[2], "another batch compiles nothing"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian", "signs"])
def test_what_is_compiled_for_one_size_is_right_for_all(kind: Kind) -> None:
    """Calls check nothing: whole and broken last units of every kind of field, after one that was neither."""
    for size in (64 * 99, 64 * 128, 64 * 64, 64 * 77, 64 * 96 + 5, 1 << 20, (1 << 20) + 64 * 33):
        weight = torch.randn(size).bfloat16()
        selection = select_smallest("magnitude", weight, size // 5, replace(STREAM, step=0, lane=Lane.MASK))
        results = []
        for compiler in (EAGER, COMPILED):
            out, moved = torch.empty_like(weight), weight.clone()
            motion = Motion(kind, [STREAM], torch.tensor([0.1]), selection=selection)
            subtract(weight, motion, compiler, out)
            subtract(moved, replace(motion, rounding=ROUNDING), compiler)
            results.append((out, moved))
        for eager, compiled in zip(*results, strict=True):
            assert int((eager != compiled).sum()) <= size // 500


@pytest.mark.slow
def test_without_a_compiler_the_kernels_run_eager_with_one_warning_of_one_line(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from zolightning.perturbation.compiler import Compiler\n"
        "from zolightning.perturbation.motion import Motion, subtract\n"
        "from zolightning.perturbation.noise import Stream\n"
        "from zolightning.perturbation.ranges import range_of\n"
        "compiler, out = Compiler(True, 6400), torch.empty(6400)\n"
        "for _ in range(2):\n"
        "    motion = Motion('gaussian', [Stream(1, 2, 3)], torch.tensor([-1.0]))\n"
        "    subtract(torch.zeros(6400), motion, compiler, out)\n"
        "assert not compiler.enabled\n"
        "assert torch.equal(out, range_of('gaussian', Stream(1, 2, 3), 0, 6400))\n"
    )
    done = run(code, CXX="no-such-compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert "run uncompiled, about ten times slower" in lines[0]


def test_small_kernels_run_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr("zolightning.perturbation.compiler._compile", refuse)
    out = torch.empty(64)
    subtract(torch.zeros(64), Motion("gaussian", [STREAM], torch.tensor([-1.0])), COMPILED, out)
    assert torch.equal(out, range_of("gaussian", STREAM, 0, 64))


def test_what_is_short_of_memory_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(tensors: list[Tensor]) -> None:
        raise torch.OutOfMemoryError("short")

    def kernel(out: Tensor) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr("zolightning.perturbation.compiler._compile", lambda *_: short)
    compiler = Compiler(True, 0)
    with pytest.raises(torch.OutOfMemoryError, match="short"):
        compiler.run(kernel, 2, torch.zeros(2))
    assert compiler.enabled


@pytest.mark.parametrize(
    ("enabled", "size", "expected"), [(None, 10**6, True), (None, 999_999, False), (False, 10**9, False)]
)
def test_a_million_weights_are_worth_compiling_for(enabled: bool | None, size: int, expected: bool) -> None:
    assert Compiler(enabled, size).enabled == expected


def test_every_kind_has_its_bits() -> None:
    assert BITS == {"gaussian": 32, "signs": 1, "halves": 16, "keys": 32}
