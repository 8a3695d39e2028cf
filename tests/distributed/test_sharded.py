"""Runs with sharded weights: bit for bit those of one process, resumed on any number of them, and exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.distributed.sharded_runs import STEPS, fit, fit_here, fit_together
from tests.helpers.models import tiny_llama, tokens
from tests.helpers.ranks import in_ranks
from zolightning import FineTuner
from zolightning.callbacks.snapshots import WholeCheckpointIO
from zolightning.distributed import ShardedStrategy, sharded
from zolightning.errors import ConfigurationError
from zolightning.journal import load
from zolightning.models.loading import load_model
from zolightning.models.schemes import Scheme
from zolightning.models.sharding import gathered, load_sharded
from zolightning.optim.first_order import BackpropSGD
from zolightning.optim.hybrid import HybridOptimizer
from zolightning.runs import JOURNAL, OLD, RESULT, existing, resolve_checkpoint
from zolightning.strategies import ZOSGD


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_close(one: Mapping[str, Tensor], other: Mapping[str, Tensor], but: int = 0) -> None:
    """To 1e-5, but for so many weights."""
    assert one.keys() == other.keys()
    off = [(one[name] - other[name]).abs() for name in one]
    assert sum(int((difference > 1e-5).sum()) for difference in off) <= but


@pytest.mark.slow
def test_sharded_and_replicated_runs_are_the_same_to_the_bit(tmp_path: Path) -> None:
    """Of two processes each; one process with the same batches rounds losses otherwise, which 1 / (2 eps) enlarges."""
    names = ["ZOSGD", "ZOAdam", "SparseMeZO", "BlockwiseZO", "ForwardGradient"]
    replicated = fit_together(names, tmp_path / "replicated", layout="zo_ddp")
    sharded = fit_together(names, tmp_path / "sharded")
    for name in names:
        assert_equal(replicated[name], sharded[name])
        journals = [tmp_path / layout / name / JOURNAL for layout in ("replicated", "sharded")]
        assert journals[0].read_bytes() == journals[1].read_bytes()
        # Of SparseMeZO's 183,872 weights one or two may lie so near the threshold that they cross it in one run alone.
        assert_close(fit(name, tmp_path / "alone" / name), sharded[name], but=2 if name == "SparseMeZO" else 0)
        made = load("sample", journals[1])
        assert_equal(dict(made.named_parameters()), sharded[name])


@pytest.mark.slow
def test_a_sharded_run_resumes_on_any_number_of_processes(tmp_path: Path) -> None:
    names = ["ZOSGD", "ZOAdam"]
    whole = fit_together(names, tmp_path / "whole")
    half = fit_together(names, tmp_path / "half", steps=STEPS // 2)
    for number in (1, 3):
        shutil.copytree(tmp_path / "half", tmp_path / str(number))
    resumed = fit_together(names, tmp_path / "half", resume=True)
    elsewhere = [fit_together(names, tmp_path / str(number), resume=True, ranks=number) for number in (1, 3)]
    for name in names:
        assert_equal(whole[name], resumed[name])
        for found in elsewhere:
            assert_close(whole[name], found[name])
        assert any(not torch.equal(whole[name][key], half[name][key]) for key in whole[name])
        exported = tmp_path / "whole" / name / "best"
        assert_equal(dict(load_model(str(exported), "float32", "sdpa").named_parameters()), whole[name])
        saved = tmp_path / "whole" / name / "checkpoints" / "last.ckpt"
        assert resolve_checkpoint(str(saved), tmp_path) == saved
        assert sorted(path.name for path in saved.parent.iterdir()) == ["best.ckpt", "last.ckpt"]
    fit("ZOSGD", tmp_path / "alone", steps=2)
    kept = [str(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("alone", "whole/ZOSGD")]
    shutil.copytree(tmp_path / "whole" / "ZOSGD", tmp_path / "other" / "ZOAdam")
    in_ranks(check_refused, str(tmp_path / "other"), str(tmp_path / "whole"))
    in_ranks(check_checkpoints, *kept)
    with pytest.raises(ConfigurationError, match=r"sharded weights: set trainer.strategy to zo_fsdp"):
        WholeCheckpointIO().load_checkpoint(kept[1])


def check_refused(other: str, whole: str) -> None:
    """Of another strategy, or with no step to do: before anything is loaded."""

    def too_late(module: FineTuner) -> None:
        raise AssertionError("the model is being loaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTuner, "configure_model", too_late)
        with pytest.raises(ConfigurationError, match="of strategy ZOSGD, which ZOAdam cannot go on from"):
            fit_here(["ZOAdam"], other, STEPS, "zo_fsdp", True)
        with pytest.raises(ConfigurationError, match=f"complete at step {STEPS}"):
            fit_here(["ZOSGD"], whole, STEPS - 1, "zo_fsdp", True)
        Path(whole, "ZOSGD", RESULT).write_text(json.dumps({"steps": STEPS}))
        with pytest.raises(ConfigurationError, match=f"complete at step {STEPS}"):
            fit_here(["ZOSGD"], whole, STEPS, "zo_fsdp", True)


def check_checkpoints(file: str, folder: str) -> None:
    """Of a run of one process, and of a sharded one: loaded into the same model, refused by any other, or if torn."""
    mesh, strategy = init_device_mesh("cpu", (2,)), ShardedStrategy()
    strategy.model = nn.ModuleDict({"model": load_sharded("sample", "float32", "sdpa", mesh, torch.device("cpu"))})
    strategy.load_weights(Path(folder))
    before = gathered(strategy.model)
    strategy.load_weights(Path(file))
    after, kept = gathered(strategy.model), torch.load(file, weights_only=True)["state_dict"]
    if distributed.get_rank() == 0:
        assert_equal(after, {name: kept[name] for name in after})
        assert any(not torch.equal(after[name], before[name]) for name in after)
    strategy.model = nn.ModuleDict({"model": small()})
    for path in (file, folder):
        with pytest.raises(ConfigurationError, match="of another model"):
            strategy.load_checkpoint(path)
    distributed.barrier()
    for path, spoiled in ((file, Path(file)), (folder, Path(folder, ".metadata"))):
        if distributed.get_rank() == 0:
            spoiled.write_bytes(spoiled.read_bytes()[: spoiled.stat().st_size // 2])
        distributed.barrier()
        with pytest.raises(ConfigurationError, match="is torn, or no checkpoint"):
            strategy.load_checkpoint(path)


@pytest.mark.slow
def test_first_order_runs_differ_in_rounding_and_resume(tmp_path: Path) -> None:
    """Gradients are clipped by a norm that is summed over shards, in another order than over the whole."""
    names = ["FOSGD", "FOAdam", "plain FOSGD"]
    whole = fit_together(names, tmp_path / "whole")
    fit_together(names, tmp_path / "half", steps=STEPS // 2)
    resumed = fit_together(names, tmp_path / "half", resume=True)
    for name in names:
        assert_equal(whole[name], resumed[name])
        assert_close(fit(name, tmp_path / "alone" / name), whole[name])


def check_loading(folder: str) -> None:
    """Weights that a file has under the model's names are read in rows; others come from the first process."""
    mesh = init_device_mesh("cpu", (2,))
    config = Path(folder, "untied", "config.json")
    if distributed.get_rank() == 0:
        shutil.copytree(config.parent, config.parent.parent / "changed")
        changed = Path(folder, "changed", config.name)
        changed.write_text(json.dumps(json.loads(changed.read_text()) | {"vocab_size": 3}))
    distributed.barrier()
    with pytest.raises(ConfigurationError, match=r"embed_tokens.weight has the shape .* the two are of different"):
        load_sharded(str(config.parent.parent / "changed"), "float32", "sdpa", mesh, torch.device("cpu"))
    for name in (Path(folder, name) for name in ("base", "tied", "untied")):
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


class _Killed(BaseException):
    """What no handler of errors takes for one."""


@pytest.mark.parametrize("at", range(4))
def test_a_sharded_snapshot_is_whole_wherever_a_kill_falls(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each change of the disk in turn; the next snapshot then finds its place."""
    path = tmp_path / "last.ckpt"
    old, new = path.with_name(path.name + OLD), path.with_name(path.name + ".new")
    snapshot(path, "1")
    snapshot(new, "2")
    left = at

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def change_or_die(*arguments: object) -> object:
            nonlocal left
            if not left:
                raise _Killed
            left -= 1
            return change(*arguments)

        return change_or_die

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(sharded, "_remove", counted(sharded._remove))
        with pytest.raises(_Killed):
            sharded._replace(path, new, old)
    found = existing(path)
    assert found is not None
    assert (found / "held").read_text() == ("2" if at == 3 else "1")
    sharded._remove(new)
    snapshot(new, "3")
    sharded._replace(path, new, old)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert (path / "held").read_text() == "3"


def snapshot(path: Path, held: str) -> None:
    """Write what stands for a sharded checkpoint."""
    path.mkdir()
    (path / ".metadata").touch()
    (path / "held").write_text(held)


def test_a_timeout_must_be_positive() -> None:
    with pytest.raises(ConfigurationError, match="timeout_minutes"):
        ShardedStrategy(timeout_minutes=0)
