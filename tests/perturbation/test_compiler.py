"""Compiled and eager kernels agree, and a missing compiler costs speed only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.kernels import perturb_into, update_
from zolightning.perturbation.masks import select_smallest
from zolightning.perturbation.noise import Lane, Stream, gaussian

STREAM = Stream(seed=5, parameter=6, step=7)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_agree_with_eager_ones(dtype: torch.dtype) -> None:
    size = 4096 + 64
    torch.manual_seed(0)
    weight = torch.randn(size).to(dtype)
    selection = select_smallest("magnitude", weight, size // 3, Stream(5, 6, 0, lane=Lane.MASK))
    rounding = Stream(5, 6, 7, lane=Lane.ROUNDING) if dtype == torch.bfloat16 else None
    results = []
    for enabled in (False, True):
        compiler, out, updated = Compiler(enabled, size), torch.empty_like(weight), weight.clone()
        perturb_into(out, weight, torch.tensor(0.1), STREAM, selection, compiler)
        update_(updated, torch.tensor([0.01]), torch.tensor(0.0), [STREAM], selection, rounding, compiler)
        assert compiler.enabled == enabled, "the compiler was given up"
        results.append((out, updated))
    for eager, compiled in zip(*results, strict=True):
        # Sines and logarithms differ in their last bits, which a rounding to bfloat16 may turn into one of its steps.
        tolerance = 2e-6 if dtype == torch.float32 else 2**-7
        torch.testing.assert_close(compiled, eager, rtol=tolerance, atol=1e-6 if dtype == torch.float32 else 1e-3)
        assert (compiled != eager).float().mean() < (1.0 if dtype == torch.float32 else 0.01)


@pytest.mark.slow
def test_without_a_compiler_the_kernels_run_eager_with_one_warning(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from zolightning.perturbation.compiler import Compiler\n"
        "from zolightning.perturbation.kernels import perturb_into\n"
        "from zolightning.perturbation.noise import Stream, gaussian\n"
        "compiler, out = Compiler(True, 640), torch.empty(640)\n"
        "for _ in range(2):\n"
        "    perturb_into(out, torch.zeros(640), torch.tensor(1.0), Stream(1, 2, 3), None, compiler)\n"
        "assert torch.equal(out, gaussian(Stream(1, 2, 3), 0, 640))\n"
    )
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run uncompiled") == 1


def test_small_kernels_run_eager() -> None:
    out = torch.empty(64)
    perturb_into(out, torch.zeros(64), torch.tensor(1.0), STREAM, None, Compiler(True, 64))
    assert torch.equal(out, gaussian(STREAM, 0, 64))
