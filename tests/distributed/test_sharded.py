"""Runs with sharded weights: bit for bit those of one process, resumed on any number of them, and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.distributed.sharded_runs import fit, fit_sharded
from zolightning.models.loading import load_model
from zolightning.runs import resolve_checkpoint

EXACT = ["SparseMeZO", "BlockwiseZO", "ForwardGradient", "FOSGD"]


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.slow
def test_a_run_is_that_of_one_process_and_resumes_on_any_number(tmp_path: Path) -> None:
    names = ["ZOSGD", "ZOAdam"]
    alone = {name: fit(name, tmp_path / "alone" / name) for name in names}
    whole = fit_sharded(names, tmp_path / "whole")
    half = fit_sharded(names, tmp_path / "half", steps=3)
    resumed = fit_sharded(names, tmp_path / "half", resume=True)
    fit_sharded(names, tmp_path / "other", steps=3, ranks=3)
    elsewhere = fit_sharded(names, tmp_path / "other", resume=True)
    for name in names:
        assert_equal(alone[name], whole[name])
        assert_equal(alone[name], resumed[name])
        assert_equal(alone[name], elsewhere[name])
        assert any(not torch.equal(alone[name][key], half[name][key]) for key in alone[name])
        exported = tmp_path / "whole" / name / "best"
        assert_equal(dict(load_model(str(exported), "float32", "sdpa").named_parameters()), alone[name])
        settings = [json.loads((tmp_path / run / name / "best/config.json").read_text()) for run in ("whole", "alone")]
        assert settings[0] == settings[1]
        saved = tmp_path / "whole" / name / "checkpoints" / "last.ckpt"
        assert resolve_checkpoint(str(saved), tmp_path) == saved
        assert sorted(path.name for path in saved.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_other_strategies_run_as_in_one_process(tmp_path: Path) -> None:
    names = [*EXACT, "FOAdam"]
    alone = {name: fit(name, tmp_path / "alone" / name) for name in names}
    found = fit_sharded(names, tmp_path)
    for name in EXACT:
        assert_equal(alone[name], found[name])
    for key, value in alone["FOAdam"].items():
        # Adam divides by the gradient's size, so that the order in which its norm is summed shows.
        torch.testing.assert_close(found["FOAdam"][key], value, rtol=1e-4, atol=1e-6)
