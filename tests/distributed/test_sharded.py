"""Runs with sharded weights: bit for bit those of one process, resumed on any number of them, and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.distributed.sharded_runs import fit, fit_sharded
from tests.helpers.models import tiny_llama, tokens
from tests.helpers.ranks import in_ranks
from zolightning.distributed import ShardedStrategy
from zolightning.errors import ConfigurationError
from zolightning.models.loading import load_model
from zolightning.models.schemes import Scheme
from zolightning.models.sharding import gathered, load_sharded
from zolightning.optim.first_order import BackpropSGD
from zolightning.optim.hybrid import HybridOptimizer
from zolightning.runs import resolve_checkpoint
from zolightning.strategies import ZOSGD

EXACT = ["SparseMeZO", "BlockwiseZO", "ForwardGradient"]


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
    found = fit_sharded(EXACT, tmp_path)
    for name in EXACT:
        assert_equal(fit(name, tmp_path / "alone" / name), found[name])


@pytest.mark.slow
def test_first_order_runs_differ_in_rounding_and_resume(tmp_path: Path) -> None:
    """Gradients are clipped by a norm that is summed over shards, in another order than over the whole."""
    names = ["FOSGD", "FOAdam", "plain FOSGD"]
    whole = fit_sharded(names, tmp_path / "whole")
    fit_sharded(names, tmp_path / "half", steps=3)
    resumed = fit_sharded(names, tmp_path / "half", resume=True)
    for name in names:
        assert_equal(whole[name], resumed[name])
        for key, value in fit(name, tmp_path / "alone" / name).items():
            torch.testing.assert_close(whole[name][key], value, rtol=1e-4, atol=1e-6)


def check_loading(folder: str) -> None:
    """Weights that a file has under the model's names are read in rows; others come from the first process."""
    mesh = init_device_mesh("cpu", (2,))
    for name in sorted(Path(folder).iterdir()):
        model = load_sharded(str(name), "bfloat16", "sdpa", mesh, torch.device("cpu"))
        whole = load_model(str(name), "bfloat16", "sdpa")
        assert_equal(gathered(model) or dict(whole.state_dict()), dict(whole.state_dict()))
        assert_equal(dict(model.named_buffers()), dict(whole.named_buffers()))
        with torch.no_grad():
            assert torch.equal(model(input_ids=tokens()).logits, whole(input_ids=tokens()).logits)
    with pytest.raises(ConfigurationError, match="zo_fsdp trains all of a model"):
        ShardedStrategy().load("sample", "float32", "sdpa", Scheme("lora"))
    zeroth, first = ZOSGD(1e-3, 1e-3).configure_optimizer(small(), 0), BackpropSGD(small(), lr=1e-3)
    with pytest.raises(ConfigurationError, match="two optimizers"):
        HybridOptimizer(nn.Identity(), zeroth, first)


def small() -> nn.Module:
    layer = nn.Linear(3, 4)
    fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    return layer


def test_loading_and_what_is_refused(tmp_path: Path) -> None:
    for name, model in {"tied": tiny_llama(), "untied": tiny_llama(tied=False)}.items():
        model.save_pretrained(tmp_path / name, max_shard_size="3KB")
    # A base model's names lack a prefix.
    tiny_llama().model.save_pretrained(tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace("LlamaModel", "LlamaForCausalLM"))
    in_ranks(check_loading, str(tmp_path))


def test_a_timeout_must_be_positive() -> None:
    with pytest.raises(ConfigurationError, match="timeout_minutes"):
        ShardedStrategy(timeout_minutes=0)
