"""Runs of every scheme from the command line: what their checkpoints hold, resuming, testing, and what they export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.helpers.runs import fit, recipe, weights
from zolightning import FineTuner
from zolightning.cli import main
from zolightning.models.adapters import Prefix, Prompt
from zolightning.models.loading import load_model
from zolightning.models.schemes import Scheme
from zolightning.sample import MODEL
from zolightning.strategies import ZOSGD
from zolightning.tasks import SampleReviews

TABLE = {"model.prompt_encoder.default.embedding.weight"}
LAYER = {f"model.{name}" for name, _ in load_model("sample", "float32", "sdpa").named_parameters() if ".2." in name}
LOW_RANK = {
    f"model.base_model.model.model.layers.{layer}.self_attn.{place}.lora_{half}.default.weight"
    for layer in range(4)
    for place in ("q_proj", "v_proj")
    for half in "AB"
}
RUNS: list[tuple[list[str], set[str]]] = [
    (["--model.scheme=lora"], LOW_RANK),
    (["--model.scheme=prefix"], TABLE),
    (["--model.scheme=Prompt", "--model.scheme.tokens=3"], TABLE),
    (["--model.scheme=head"], {"model.lm_head.weight"}),
    (["--model.layers=[2]"], LAYER),
]
every_run = pytest.mark.parametrize(("flags", "names"), RUNS, ids=lambda value: value[0] if type(value) is list else "")


@every_run
def test_a_run_keeps_and_exports_what_trains(flags: list[str], names: set[str], tmp_path: Path) -> None:
    run = fit(recipe(tmp_path, "FOAdam"), *flags, "--model.strategy.lr=0.01")
    state = weights(run / "checkpoints" / "best.ckpt")
    assert state.keys() == names
    whole = (run / "best" / "config.json").is_file()
    assert whole == (names in (LAYER, {"model.lm_head.weight"}))
    exported: Any = AutoModelForCausalLM.from_pretrained(run / "best" if whole else MODEL)
    if not whole:
        exported = PeftModel.from_pretrained(exported, run / "best")
    tokens = torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(exported.eval()(tokens).logits, logits_of(run, flags, tokens))
        assert not torch.equal(exported(tokens).logits, logits_of(run, flags, tokens, trained=False))


def logits_of(run: Path, flags: list[str], tokens: Tensor, trained: bool = True) -> Tensor:
    """Return the logits of the sample under a run's scheme, with the weights of its best checkpoint or without."""
    kind: Any = Prompt(3) if len(flags) > 1 else flags[0].split("scheme=")[-1]
    scheme = Scheme("full", [2]) if "layers" in flags[0] else Scheme(kind)
    model = scheme.apply(load_model("sample", "float32", "sdpa"), seed=0)
    if trained:
        state = weights(run / "checkpoints" / "best.ckpt")
        model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()}, strict=False)
    logits: Tensor = model.eval()(tokens).logits
    return logits


@every_run
def test_a_resumed_run_is_the_run(flags: list[str], names: set[str], tmp_path: Path) -> None:
    whole = fit(recipe(tmp_path), *flags)
    (tmp_path / "halves").mkdir()
    config = recipe(tmp_path / "halves")
    fit(config, *flags, "--trainer.max_steps=4")
    parts = fit(config, *flags, "--ckpt_path=last")
    one, other = (weights(run / "checkpoints" / "last.ckpt") for run in (whole, parts))
    assert one.keys() == other.keys() == names
    assert all(torch.equal(one[name], other[name]) for name in names)


def test_a_checkpoint_is_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.scheme=prefix", "--model.strategy.lr=0.01"]
    run = fit(recipe(tmp_path, "FOAdam"), *flags, "--scoreboard.test=true")
    capsys.readouterr()
    main(["test", "--config", str(recipe(tmp_path, "FOAdam")), *flags, "--ckpt_path=best"])
    expected = json.loads((run / "result.json").read_text())["final"]["test accuracy"]
    shown = capsys.readouterr().out.split("test/accuracy")[1].split("│")[1]
    assert float(shown) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("began", "goes_on", "message"),
    [
        (["--model.scheme=prefix"], ["--model.scheme=Prefix", "--model.scheme.tokens=4"], "has model.scheme=prefix,"),
        (["--model.layers=[2]"], ["--model.layers=[1]"], "has model.scheme=full and model.layers=[2],"),
    ],
)
def test_a_checkpoint_of_another_scheme_is_refused(
    began: list[str], goes_on: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe(tmp_path)
    fit(config, *began)
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), *goes_on, "--ckpt_path=last", "--trainer.max_steps=20"])
    assert message in capsys.readouterr().err


def test_prompts_leave_room_for_virtual_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int | None] = []
    connect = SampleReviews.connect

    def watched(task: SampleReviews, tokenizer: Any, max_positions: int | None, *, seed: int, cloze: bool) -> None:
        limits.append(max_positions)
        connect(task, tokenizer, max_positions, seed=seed, cloze=cloze)

    monkeypatch.setattr(SampleReviews, "connect", watched)
    task = SampleReviews(batch_size=8, num_train=16, num_dev=8, num_test=8)
    trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, limit_val_batches=1)
    trainer.fit(FineTuner("sample", ZOSGD(lr=1e-3, eps=1e-1), scheme=Prefix(7)), datamodule=task)
    assert set(limits) == {128 - 7}
