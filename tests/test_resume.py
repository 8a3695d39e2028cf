"""What a run keeps, and taking it up again: where it was, with what has changed since, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from tests.helpers.runs import FORWARDS, STRATEGIES, curves, fit, newest, recipe, weights
from zolightning.callbacks import Export
from zolightning.cli import main
from zolightning.sample import MODEL
from zolightning.tasks import SampleReviews


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resume_in_mid_epoch_ends_with_the_same_bits(strategy: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    whole = fit(recipe(tmp_path / "whole", strategy))
    halves = recipe(tmp_path / "halves", strategy)
    first = fit(halves, "--trainer.max_steps=8")
    second = fit(halves, "--ckpt_path=last")
    assert first == second, "a resumed run goes on in its folder"
    a, b = (weights(run / "checkpoints" / "last.ckpt") for run in (whole, second))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert json.loads((second / "result.json").read_text())["forward_passes"] == 10 * FORWARDS.get(strategy, 2)


def test_flags_beat_a_checkpoint(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    run = fit(config, "--trainer.max_steps=4")
    fit(config, f"--ckpt_path={run}/checkpoints/last.ckpt", "--model.strategy.lr=0.00025")
    assert curves(run)["lr"][-1][1] == pytest.approx(2.5e-4)


def test_what_a_resumed_run_does_otherwise_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config = recipe(tmp_path)
    fit(config, "--trainer.max_steps=4")
    caplog.clear()
    flags = ["--model.strategy.engine.distribution=rademacher", "--data.batch_size=4", "--model.strategy.lr=1e-5"]
    # A journal is of one distribution.
    flags.append("--journal.enabled=false")
    fit(config, "--ckpt_path=last", "--trainer.max_steps=6", *flags)
    said = caplog.text
    for change in (
        "strategy.engine.distribution=rademacher; it began with gaussian",
        "data.batch_size=4; it began with 8",
        "strategy.lr=1e-05; it began with 0.0001",
    ):
        assert change in said
    caplog.clear()
    fit(config, "--ckpt_path=last", "--trainer.max_steps=8", *flags)
    assert "it began with" not in caplog.text


def test_a_schedule_is_stepped_each_step_and_resumed(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    flags = [
        "--model.lr_scheduler=LinearLR",
        "--model.lr_scheduler.start_factor=1.0",
        "--model.lr_scheduler.end_factor=0.0",
        "--model.lr_scheduler.total_iters=10",
    ]
    fit(config, *flags, "--trainer.max_steps=5")
    run = fit(config, *flags, "--ckpt_path=last")
    rates = dict(curves(run)["lr"])
    assert [rates[step] for step in (2, 4, 6, 8, 10)] == pytest.approx([9e-5, 7e-5, 5e-5, 3e-5, 1e-5])


def test_another_schedule_on_resume_is_the_recipes_from_its_beginning(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    flags = ["--model.lr_scheduler=LinearLR", "--model.lr_scheduler.start_factor=1.0"]
    flags.append("--model.lr_scheduler.end_factor=0.0")
    fit(config, *flags, "--model.lr_scheduler.total_iters=10", "--trainer.max_steps=4")
    run = fit(config, *flags, "--model.lr_scheduler.total_iters=100", "--ckpt_path=last")
    assert dict(curves(run)["lr"])[10] == pytest.approx(9.1e-5)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipe(tmp_path)
    run = fit(config)
    best = (run / "best" / "model.safetensors").read_bytes()
    adam = ["--model.strategy=FOAdam", "--model.strategy.lr=0.001"]
    small = AutoConfig.from_pretrained(MODEL)
    small.num_hidden_layers += 1
    LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(tmp_path / "small")
    for flags, message in (
        ([], "complete at step 10"),
        ([*adam, "--trainer.max_steps=20"], "FOAdam cannot go on from"),
        (["--model.dtype=bfloat16", "--trainer.max_steps=20"], "model.dtype=float32"),
        (["--model.scheme=lora", "--trainer.max_steps=20"], "model.scheme=full"),
        (
            [f"--model.backbone={tmp_path}/small", "--trainer.max_steps=20"],
            "input_layernorm.weight is missing, this model's of [",
        ),
    ):
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(config), "--ckpt_path=last", *flags])
        assert message in capsys.readouterr().err
    assert (run / "best" / "model.safetensors").read_bytes() == best


def test_a_run_without_validation_or_logging_keeps_its_last_state(tmp_path: Path) -> None:
    flags = ["--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=0", "--trainer.max_steps=3"]
    run = fit(recipe(tmp_path), *flags)
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    fit(recipe(tmp_path), "--trainer.enable_checkpointing=false", "--trainer.max_steps=2")


EACH_EPOCH = {"val_check_interval": 1.0, "check_val_every_n_epoch": 1}


@pytest.mark.parametrize(
    ("trainer", "validated"),
    [({"max_steps": 10}, [4, 8, 10]), ({"max_steps": 3, **EACH_EPOCH}, [3]), ({"max_steps": 8, **EACH_EPOCH}, [6, 8])],
)
def test_a_run_is_saved_and_ranked_by_the_validation_of_its_last_step(
    trainer: dict[str, object], validated: list[int], tmp_path: Path
) -> None:
    run = fit(recipe(tmp_path, "FOAdam", **trainer))
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == validated[-1]
    (best,) = (state for name, state in last["callbacks"].items() if name.startswith("BestCheckpoint"))
    scores = dict(curves(run)["val/accuracy"])
    assert list(scores) == validated
    assert float(best["best_model_score"]) == max(scores.values())
    chosen = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    assert scores[chosen] == max(scores.values())


def lose_every_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SampleReviews.loss
    monkeypatch.setattr(SampleReviews, "loss", lambda *arguments: whole(*arguments) * float("nan"))


@pytest.mark.parametrize("log_every", [2, 1000])
def test_losses_that_are_not_finite_stop_the_run_with_a_checkpoint(
    log_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lose_every_loss(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        # Logged never: the end of the run finds out too.
        main(["fit", "--config", str(recipe(tmp_path, max_steps=12, log_every_n_steps=log_every))])
    assert stop.value.code == 3
    assert "steps in a row" in capsys.readouterr().err
    state = weights(newest(tmp_path / "runs") / "checkpoints" / "diverged.ckpt")
    for name, value in load_file(MODEL / "model.safetensors").items():
        assert torch.equal(state[f"model.{name}"], value)


@pytest.mark.parametrize("strategy", ["SparseMeZO", "FOSGD"])
def test_a_run_that_diverged_goes_on_with_another_rate(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(tmp_path, strategy, max_steps=14)
    with monkeypatch.context() as patch:
        lose_every_loss(patch)
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(config)])
    diverged = newest(tmp_path / "runs") / "checkpoints" / "diverged.ckpt"
    run = fit(config, f"--ckpt_path={diverged}", "--model.strategy.lr=0.00005")
    found = curves(run)
    assert json.loads((run / "result.json").read_text())["steps"] == 14
    assert found["train/skipped"][-2:] == [(12, 10.0), (14, 10.0)]
    assert found["lr"][-1][1] == pytest.approx(5e-5)
    before, after = weights(diverged), weights(run / "checkpoints" / "last.ckpt")
    assert any(not torch.equal(after[name], value) for name, value in before.items())


def test_a_complete_run_is_refused_unless_its_results_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As of a process that was killed after the last step."""
    config = recipe(tmp_path, "FOSGD")
    run = fit(config)
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), "--ckpt_path=last"])
    assert "complete at step 10; to go on, raise trainer.max_steps" in capsys.readouterr().err
    told, model = json.loads((run / "result.json").read_text()), (run / "best" / "model.safetensors").read_bytes()
    (run / "result.json").write_text("{ spoiled")
    shutil.rmtree(run / "best")
    caplog.set_level("INFO")
    assert fit(config, "--ckpt_path=last") == run
    assert "had ended at step 10 without its results" in caplog.text
    again, free = json.loads((run / "result.json").read_text()), dict.fromkeys(("seconds", "peak_memory_gib"))
    assert {**again, **free} == {**told, **free}
    assert again["weights"] == "best"
    assert (run / "best" / "model.safetensors").read_bytes() == model


def test_results_of_fewer_steps_do_not_stand_for_a_run_that_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(tmp_path, "FOSGD")
    run = fit(config)

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Export, "on_fit_end", interrupt)
        with pytest.raises(SystemExit):
            fit(config, "--ckpt_path=last", "--trainer.max_steps=12")
    assert not (run / "result.json").exists()
    fit(config, "--ckpt_path=last", "--trainer.max_steps=12")
    assert json.loads((run / "result.json").read_text())["steps"] == 12


def test_a_run_that_was_moved_keeps_its_best(tmp_path: Path) -> None:
    """However good the next weights are, and whatever has taken the run's old place."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = recipe(tmp_path / "old", "FOSGD")
    run = fit(old)
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    (best,) = (state for name, state in saved["callbacks"].items() if name.startswith("BestCheckpoint"))
    # Better than any that will come.
    best["best_model_score"] = torch.tensor(2.0)
    best["best_k_models"] = {path: torch.tensor(2.0) for path in best["best_k_models"]}
    best["kth_value"] = torch.tensor(2.0)
    torch.save(saved, run / "checkpoints" / "last.ckpt")
    shutil.move(tmp_path / "old" / "runs", tmp_path / "new" / "runs")
    kept = weights(tmp_path / "new" / "runs" / run.name / "checkpoints" / "best.ckpt")
    fit(old, "--model.strategy.lr=0.1")
    config = recipe(tmp_path / "new", "FOSGD")
    moved = fit(config, "--ckpt_path=last", "--trainer.max_steps=14")
    exported = load_file(moved / "best" / "model.safetensors")
    assert all(torch.equal(exported[name], kept[f"model.{name}"]) for name in exported)
    assert json.loads((moved / "result.json").read_text())["weights"] == "best"


def test_best_weights_that_are_gone_are_told(tmp_path: Path) -> None:
    config = recipe(tmp_path, "FOSGD")
    run = fit(config)
    (run / "result.json").unlink()
    (run / "checkpoints" / "best.ckpt").unlink()
    with pytest.warns(UserWarning, match=r"best.ckpt, the best weights, is gone"):
        fit(config, "--ckpt_path=last")
    assert json.loads((run / "result.json").read_text())["weights"] == "last"
    last = weights(run / "checkpoints" / "last.ckpt")
    exported = load_file(run / "best" / "model.safetensors")
    assert all(torch.equal(exported[name], last[f"model.{name}"]) for name in exported)
