"""Which way the arrows run."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["zolightning.perturbation.engine", "zolightning.optim", "zolightning.strategies"])
def test_from_strategies_down_nothing_imports_lightning_or_data(module: str) -> None:
    absent = "{'lightning', 'jsonargparse', 'datasets', 'transformers', 'peft', 'torchmetrics', 'zolightning.tasks'}"
    code = f"import sys, {module}; print(sorted({absent} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_optim_does_not_import_strategies_nor_perturbation_optim() -> None:
    for module, above in (
        ("zolightning.optim", "zolightning.strategies"),
        ("zolightning.perturbation.engine", "zolightning.optim"),
        ("zolightning.models.scoring", "zolightning.tasks"),
    ):
        code = f"import sys, {module}; print({above!r} in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout.strip() == "False", (module, above)
