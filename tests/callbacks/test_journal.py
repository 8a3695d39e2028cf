"""The journal of a run: crashes lose nothing, and the journal alone makes the weights again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from tests.helpers.runs import fit, newest, recipe, weights
from zolightning.callbacks import journal_file
from zolightning.cli import main
from zolightning.errors import ConfigurationError
from zolightning.finetuner import FineTuner
from zolightning.journal import JournalWriter, load, read
from zolightning.journal.scheme import loaded
from zolightning.optim.zeroth_order import ZerothOrderOptimizer
from zolightning.runs import JOURNAL, run_folder
from zolightning.strategies import ZOSGD

Copies = Callable[..., Path]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copies:
    """Runs a recipe, and copies what is on the disk after given steps, as a machine that fails there would leave it."""
    original = FineTuner.on_train_batch_end

    def run(strategy: str, *steps: int, every: int = 3) -> Path:
        def copy(module: FineTuner, *arguments: object) -> None:
            original(module, *arguments)  # type: ignore[arg-type]
            if module.global_step in steps:
                shutil.copytree(run_folder(module.trainer), tmp_path / f"after-{module.global_step}" / "version_0")

        monkeypatch.setattr(FineTuner, "on_train_batch_end", copy)
        folder = fit(recipe(tmp_path, strategy), "--journal.every_steps", str(every))
        monkeypatch.setattr(FineTuner, "on_train_batch_end", original)
        return folder.parent.rename(tmp_path / "whole") / "version_0"

    return run


def resume(strategy: str, left: Path, *flags: str) -> Path:
    """Go on with a copy of a run, in the place where it was."""
    folder = left.parent
    shutil.rmtree(folder / "runs", ignore_errors=True)
    shutil.copytree(left, folder / "runs")
    return fit(folder / f"{strategy}.yaml", "--ckpt_path", "last", "--journal.every_steps", "3", *flags)


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def results(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "result.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", "peak_memory_gib")}


@pytest.mark.parametrize("strategy", ["SparseMeZO", "ZOAdam", "BlockwiseZO"])
def test_a_run_that_ends_anywhere_goes_on_as_if_it_had_not(tmp_path: Path, copied: Copies, strategy: str) -> None:
    """After step 1 there is not a record, after 3 no checkpoint, after 7 a tail after one; 6 batches are an epoch."""
    whole = copied(strategy, 1, 3, 7, 10)
    for step, recorded, checkpoint in ((1, 0, False), (3, 3, False), (7, 7, True), (10, 8, True)):
        root = tmp_path / f"after-{step}"
        assert len(read(root / "version_0" / JOURNAL).steps) == recorded
        assert (root / "version_0" / "checkpoints" / "last.ckpt").exists() == checkpoint
        run = resume(strategy, root)
        for name in ("last", "best"):
            assert equal(weights(run / "checkpoints" / f"{name}.ckpt"), weights(whole / "checkpoints" / f"{name}.ckpt"))
        assert (run / JOURNAL).read_bytes() == (whole / JOURNAL).read_bytes()
        assert results(run) == results(whole)


def test_the_journal_and_the_base_make_every_step(tmp_path: Path, copied: Copies) -> None:
    run = copied("SparseMeZO")
    steps: tuple[Literal["last", "best"], ...] = ("last", "best")
    for step in steps:
        model = load("sample", run / JOURNAL, step)
        found = {f"model.{name}": parameter for name, parameter in model.named_parameters()}
        kept = weights(run / "checkpoints" / f"{step}.ckpt")
        assert equal(found, {name: kept[name] for name in found})
    main(["test", "--config", str(tmp_path / "SparseMeZO.yaml"), "--ckpt_path", str(run / JOURNAL)])
    header = read(run / JOURNAL).header
    elsewhere = loaded("sample", header | {"model": header["model"] | {"attention": "flash_attention_2"}})
    assert equal(elsewhere.state_dict(), loaded("sample", header).state_dict())


def test_an_adapter_s_journal_makes_the_adapter(tmp_path: Path) -> None:
    run = fit(recipe(tmp_path), "--model.scheme", "lora", "--model.dtype", "bfloat16")
    model = load("sample", run / JOURNAL)
    kept = weights(run / "checkpoints" / "last.ckpt")
    found = {f"model.{name}": parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert equal(found, kept)
    with pytest.raises(
        ConfigurationError, match=r"(?s)of another run:\n  - base\.fingerprint.*\nGive the base model .*: sample"
    ):
        load(str(run.parent.parent / "other"), changed(run, tmp_path / "other"))


def changed(run: Path, folder: Path) -> Path:
    """Write the sample model with one weight changed, and return the run's journal."""
    from zolightning.models.loading import export, load_model, load_tokenizer

    model = load_model("sample", "float32", "sdpa")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1.0
    export(model, load_tokenizer("sample"), folder)
    return run / JOURNAL


def test_another_run_s_journal_is_refused(tmp_path: Path, copied: Copies, capsys: pytest.CaptureFixture[str]) -> None:
    copied("ZOSGD", 3)
    root = tmp_path / "after-3"
    for flags, said in (
        (("--model.strategy", "SparseMeZO", "--model.strategy.keep_ratio", "0.5"), "strategy.name is ZOSGD"),
        (("--model.strategy.num_queries", "2"), "optimizer.num_queries is 1 in the journal, 2 here"),
        (("--model.dtype", "bfloat16"), "trained.dtypes is ['float32'] in the journal, ['bfloat16'] here"),
        (("--model.strategy.engine.rounding", "nearest"), "optimizer.engine.rounding is stochastic in the journal"),
    ):
        with pytest.raises(SystemExit):
            resume("ZOSGD", root, *flags)
        assert said in capsys.readouterr().err
        assert len(read(tmp_path / "runs" / "version_0" / JOURNAL).steps) == 3


def test_a_torn_journal_goes_on(tmp_path: Path, copied: Copies) -> None:
    whole = copied("ZOSGD", 7)
    path = tmp_path / "after-7" / "version_0" / JOURNAL
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.warns(
        UserWarning, match="the last 22 bytes are no whole record, or were changed, and are cut off; 6 s"
    ):
        run = resume("ZOSGD", tmp_path / "after-7")
    assert (run / JOURNAL).read_bytes() == (whole / JOURNAL).read_bytes()


def test_a_journal_behind_its_checkpoint_is_set_aside(tmp_path: Path, copied: Copies) -> None:
    whole = copied("ZOSGD", 7)
    path = tmp_path / "after-7" / "version_0" / JOURNAL
    known = read(path)
    path.write_bytes(path.read_bytes()[: len(known.layout.head) + 2 * known.layout.size])
    with pytest.warns(UserWarning, match=r"ends at step 2, before the checkpoint's 4: it is now journal-2\.zoj"):
        run = resume("ZOSGD", tmp_path / "after-7")
    assert not (run / JOURNAL).exists()
    assert len(read(run / "journal-2.zoj").steps) == 2
    assert equal(weights(run / "checkpoints" / "last.ckpt"), weights(whole / "checkpoints" / "last.ckpt"))


def test_going_on_from_a_later_validation_and_validating_more_often(tmp_path: Path, copied: Copies) -> None:
    """Records of steps and validations keep their order, and nothing behind them is unreadable."""
    whole = copied("ZOSGD", 9)
    run = resume("ZOSGD", tmp_path / "after-9", "--trainer.val_check_interval", "3")
    journal = read(run / JOURNAL)
    assert journal.lost == 0
    assert journal.steps == read(whole / JOURNAL).steps
    assert [one.step for one in journal.validations] == [4, 8, 9, 10]
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "chosen.ckpt")
    shutil.rmtree(tmp_path / "runs")
    shutil.copytree(whole.parent, tmp_path / "runs")
    chosen = tmp_path / "runs" / "version_0" / "checkpoints" / "chosen.ckpt"
    (chosen.parent / "last.ckpt").rename(chosen)
    run = fit(tmp_path / "ZOSGD.yaml", "--ckpt_path", str(chosen), "--trainer.max_steps", "14")
    journal = read(run / JOURNAL)
    assert (journal.lost, len(journal.steps)) == (0, 14)
    assert [one.step for one in journal.validations] == [4, 8, 10, 12, 14]


def test_a_journal_of_other_steps_than_the_checkpoint_s_is_set_aside(tmp_path: Path, copied: Copies) -> None:
    copied("ZOSGD", 7)
    left = tmp_path / "after-7"
    path = left / "version_0" / JOURNAL
    known = read(path)
    path.unlink()
    with JournalWriter(path, known.header) as writer:
        writer.append(replace(record, lr=2 * record.lr) for record in known.steps)
    with pytest.warns(UserWarning, match="tells of other steps than the 4 before the checkpoint"):
        run = resume("ZOSGD", left)
    assert not (run / JOURNAL).exists()
    assert (run / "journal-7.zoj").exists()


def test_a_run_that_would_end_before_its_journal_is_refused(
    tmp_path: Path, copied: Copies, capsys: pytest.CaptureFixture[str]
) -> None:
    copied("ZOSGD", 7)
    with pytest.raises(SystemExit):
        resume("ZOSGD", tmp_path / "after-7", "--trainer.max_steps", "6")
    assert "has 7 steps already: set it to as many, or more" in capsys.readouterr().err


def test_an_adapter_s_journal_stands_for_its_checkpoint_at_any_seed(tmp_path: Path) -> None:
    config, flags = recipe(tmp_path), ["--model.scheme", "lora"]
    run = fit(config, *flags)
    told = []
    for checkpoint in (run / "checkpoints" / "last.ckpt", run / JOURNAL):
        seeded = ["--seed_everything", "5", "--ckpt_path", str(checkpoint)]
        main(["predict", "--config", str(config), *flags, *seeded])
        told.append((newest(tmp_path / "runs") / "predictions.jsonl").read_text())
    assert told[0] == told[1]
    with pytest.raises(SystemExit):
        main(["test", "--config", str(config), "--ckpt_path", str(run / JOURNAL)])


def test_ctrl_c_keeps_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(module: FineTuner, *arguments: object) -> None:
        if module.global_step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(FineTuner, "on_train_batch_end", interrupt)
    with caplog.at_level("INFO"), pytest.raises(SystemExit):
        fit(recipe(tmp_path))
    assert len(read(tmp_path / "runs" / "version_0" / JOURNAL).steps) == 5
    said = [record.getMessage() for record in caplog.records if "Interrupted" in record.getMessage()]
    assert len(said) == 1
    assert "every step is in" in said[0]
    assert said[0].endswith("add --ckpt_path last")


def test_going_on_from_the_best_keeps_the_old_journal_aside(tmp_path: Path, copied: Copies) -> None:
    whole = copied("ZOSGD")
    best = torch.load(whole / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    assert best < 10
    before = (whole / JOURNAL).read_bytes()
    run = resume("ZOSGD", whole.parent, "--ckpt_path", "best")
    assert (run / "journal-10.zoj").read_bytes() == before
    assert read(run / JOURNAL).until(10) == read(whole / JOURNAL).until(10)


def test_going_on_from_the_last_of_a_branch_that_was_left(tmp_path: Path, copied: Copies) -> None:
    """Its steps are not those of the journal, which is set aside with the last checkpoint of the other branch."""
    flags = ("--ckpt_path", "best", "--trainer.max_steps", "12", "--model.strategy.lr", "5e-5")
    run = resume("ZOSGD", copied("ZOSGD").parent, *flags)
    left = run / "checkpoints" / "last-10.ckpt"
    again = fit(tmp_path / "ZOSGD.yaml", "--ckpt_path", str(left), "--trainer.max_steps", "11")
    assert not (again / JOURNAL).exists()
    assert (again / "journal-12.zoj").exists()
    assert torch.load(again / "checkpoints" / "last-12.ckpt", weights_only=True)["global_step"] == 12
    assert torch.load(again / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 11


def test_a_kill_after_going_on_from_the_best_loses_no_step(
    tmp_path: Path, copied: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint of the branch that was left is not the last of the new one."""
    run = copied("ZOSGD")
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    original = FineTuner.on_train_batch_end

    def copy(module: FineTuner, *arguments: object) -> None:
        original(module, *arguments)  # type: ignore[arg-type]
        if module.global_step == best + 2:
            shutil.copytree(run_folder(module.trainer), tmp_path / "left" / "version_0")

    monkeypatch.setattr(FineTuner, "on_train_batch_end", copy)
    flags = ("--model.strategy.lr", "5e-5", "--journal.every_steps", "1")
    whole = resume("ZOSGD", run.parent, *flags, "--ckpt_path", "best").rename(tmp_path / "new")
    monkeypatch.setattr(FineTuner, "on_train_batch_end", original)
    assert (tmp_path / "left" / "version_0" / "checkpoints" / "last-10.ckpt").exists()
    again = resume("ZOSGD", tmp_path / "left", *flags)
    assert read(again / JOURNAL).until(10) == read(whole / JOURNAL).until(10)
    assert equal(weights(again / "checkpoints" / "last.ckpt"), weights(whole / "checkpoints" / "last.ckpt"))


def test_a_kill_while_a_branch_begins_loses_no_step(
    tmp_path: Path, copied: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the new branch's journal is there, the one that is left stands for all of its steps."""
    run = copied("ZOSGD")

    def killed(folder: Path, *arguments: Any) -> None:
        original(folder, *arguments)
        shutil.copytree(folder, tmp_path / "left" / "version_0")

    original = journal_file._set_checkpoints_aside
    monkeypatch.setattr(journal_file, "_set_checkpoints_aside", killed)
    resume("ZOSGD", run.parent, "--ckpt_path", "best")
    monkeypatch.setattr(journal_file, "_set_checkpoints_aside", original)
    assert not (tmp_path / "left" / "version_0" / "checkpoints" / "last.ckpt").exists()
    again = resume("ZOSGD", tmp_path / "left")
    assert read(again / JOURNAL).steps == read(again / "journal-10.zoj").steps == read(run / JOURNAL).steps
    assert equal(weights(again / "checkpoints" / "last.ckpt"), weights(run / "checkpoints" / "last.ckpt"))


class TwoRates(ZOSGD):
    """Norms and biases, which do not decay, take half the rate."""

    @override
    def configure_optimizer(self, model: nn.Module, seed: int) -> ZerothOrderOptimizer:
        optimizer = super().configure_optimizer(model, seed)
        optimizer.param_groups[1]["lr"] /= 2
        return optimizer


def test_rates_that_differ_by_group_leave_no_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipe(tmp_path)
    flags = ("--model.strategy", f"{__name__}.TwoRates", "--model.strategy.weight_decay", "0.1")
    settings = ("--model.strategy.lr", "1e-4", "--model.strategy.eps", "1e-3", "--trainer.max_steps", "2")
    with pytest.raises(SystemExit):
        fit(config, *flags, *settings)
    assert "one learning rate a step, and the groups of parameters have several" in capsys.readouterr().err
    assert not (newest(tmp_path / "runs") / JOURNAL).exists()
    assert json.loads((fit(config, *flags, *settings, "--journal.enabled", "false") / "result.json").read_text())


def test_a_decay_that_goes_on_otherwise_is_refused(
    tmp_path: Path, copied: Copies, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint's setting is not the recipe's: a journal has one for all steps."""
    copied("ZOSGD", 7)
    with pytest.raises(SystemExit):
        resume("ZOSGD", tmp_path / "after-7", "--model.strategy.weight_decay", "0.5")
    assert "optimizer.weight_decay is 0.0 in the journal, 0.5 here" in "".join(capsys.readouterr())


def test_what_goes_on_otherwise_from_a_journal_alone_is_said(
    tmp_path: Path, copied: Copies, caplog: pytest.LogCaptureFixture
) -> None:
    copied("ZOSGD", 3)
    with caplog.at_level("INFO"):
        resume("ZOSGD", tmp_path / "after-3", "--model.strategy.lr", "5e-5", "--data.batch_size", "4")
    for change in ("strategy.lr=5e-05; it began with 0.0001", "data.batch_size=4; it began with 8"):
        assert change in caplog.text


@pytest.mark.parametrize("strategy", ["FOSGD", "HybridZOFO"])
def test_gradients_leave_no_journal(
    tmp_path: Path, strategy: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = fit(recipe(tmp_path, strategy))
    assert not (run / JOURNAL).exists()
    said = "".join(capsys.readouterr()) + caplog.text
    assert "No journal is kept: " in said
    assert "goes by gradients" in said


def test_a_second_run_in_a_folder_begins_anew(tmp_path: Path) -> None:
    """Without a logger all runs share one folder."""
    config = recipe(tmp_path, logger=False)
    for seed in ("1", "2"):
        main(["fit", "--config", str(config), "--seed_everything", seed, "--trainer.max_steps", "3"])
    first, second = (read(tmp_path / "runs" / name) for name in ("journal-3.zoj", JOURNAL))
    assert (first.header["seed"], second.header["seed"]) == (1, 2)
    assert len(second.steps) == 3
    assert first.steps != second.steps
    main(["fit", "--config", str(config), "--trainer.max_steps", "3", "--journal.enabled", "false"])
    (tmp_path / "runs" / JOURNAL).unlink()
    main(["fit", "--config", str(config), "--trainer.max_steps", "4"])
    kept = sorted(path.name for path in (tmp_path / "runs" / "checkpoints").iterdir())
    ends = ("-3.ckpt", "-earlier.ckpt", ".ckpt")
    assert kept == [f"{name}{end}" for name in ("best", "last") for end in ends]


def test_without_a_logger_a_run_goes_on_from_its_journal_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, last = recipe(tmp_path, logger=False), ("--ckpt_path", "last")
    main(["fit", "--config", str(config)])
    run = tmp_path / "runs"
    whole, state = read(run / JOURNAL), weights(run / "checkpoints" / "last.ckpt")
    shutil.rmtree(run / "checkpoints")
    (run / JOURNAL).write_bytes((run / JOURNAL).read_bytes()[: whole.layout.size * -8])
    assert 0 < len(read(run / JOURNAL).steps) < 10
    main(["fit", "--config", str(config), *last])
    assert read(run / JOURNAL).steps == whole.steps
    assert equal(weights(run / "checkpoints" / "last.ckpt"), state)
    main(["test", "--config", str(config), "--ckpt_path", "best"])
    for flags, said in (
        ([*last, "--trainer.default_root_dir", str(tmp_path / "none")], "no run under"),
        (["--ckpt_path", str(run / JOURNAL), "--trainer.default_root_dir", str(tmp_path / "none")], f"to {run}"),
    ):
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(config), *flags])
        assert said in capsys.readouterr().err


def test_a_run_with_nothing_but_its_journal_needs_it(
    tmp_path: Path, copied: Copies, capsys: pytest.CaptureFixture[str]
) -> None:
    copied("ZOSGD", 3)
    for flags, said in (
        (["--journal.enabled", "false"], "set it to true"),
        (["--ckpt_path", str(tmp_path / "after-3" / "version_0" / JOURNAL)], "set trainer.default_root_dir to"),
        (["--model.strategy", "FOSGD"], "this run cannot: FOSGD goes by gradients"),
        (["--trainer.logger", "false"], f"to {tmp_path / 'runs' / 'version_0'}"),
    ):
        with pytest.raises(SystemExit):
            resume("ZOSGD", tmp_path / "after-3", *flags)
        assert said in capsys.readouterr().err


def test_a_journal_can_be_turned_off(tmp_path: Path) -> None:
    run = fit(recipe(tmp_path), "--journal.enabled", "false")
    assert not (run / JOURNAL).exists()
    with pytest.raises(SystemExit):
        fit(recipe(tmp_path), "--journal.every_steps", "0")
