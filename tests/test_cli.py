"""The command line, end to end on the embedded sample."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.helpers.runs import FORWARDS, STRATEGIES, curves, fit, newest, recipe, texts, weights
from zolightning.cli import main
from zolightning.sample import MODEL


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fit_trains_evaluates_exports_and_reports(strategy: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = fit(recipe(tmp_path, strategy), "--scoreboard.test=true")
    result = json.loads((run / "result.json").read_text())
    assert result["strategy"] == strategy
    assert result["steps"] == 10
    assert result["forward_passes"] == 10 * FORWARDS.get(strategy, 2)
    assert set(result["final"]) == {"dev accuracy", "dev loss", "test accuracy", "test loss"}
    assert (run / "config.yaml").is_file()
    tokenizer = AutoTokenizer.from_pretrained(run / "best")
    ids = tokenizer("the film was good .", return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(run / "best")
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    with torch.no_grad():
        exported = model(ids).logits
        model.load_state_dict({name.removeprefix("model."): value for name, value in best.items()})
        assert torch.equal(exported, model(ids).logits)


def test_curves_are_on_an_axis_of_optimizer_steps(tmp_path: Path) -> None:
    run = fit(recipe(tmp_path), "--memory.every_n_steps=2")
    found = curves(run)
    assert [step for step, _ in found["train/loss"]] == [2, 4, 6, 8, 10]
    assert [step for step, _ in found["val/accuracy"]] == [4, 8, 10]
    for tag in ("train/projected_grad", "lr", "perf/steps_per_s", "perf/forwards_per_s", "perf/tokens_per_s"):
        assert [step for step, _ in found[tag]] == [2, 4, 6, 8, 10], tag
    assert any(tag.startswith("memory/probe/") for tag in found)
    assert any(tag.startswith("config") for tag in texts(run))


def test_a_users_callbacks_are_kept_beside_the_progress_bar(tmp_path: Path) -> None:
    monitor = ["--trainer.callbacks+=LearningRateMonitor", "--trainer.callbacks.logging_interval=step"]
    run = fit(recipe(tmp_path), *monitor)
    assert any(tag.startswith("lr-") for tag in curves(run))


def test_testing_a_run_leaves_its_configuration_alone(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    run = fit(config, "--model.strategy.lr=0.00077")
    before = (run / "config.yaml").read_text()
    main(["test", "--config", str(config), "--ckpt_path=best"])
    assert (run / "config.yaml").read_text() == before
    assert (run / "config_test.yaml").is_file()


def test_validate_test_and_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipe(tmp_path)
    for command in ("validate", "test"):
        main([command, "--config", str(config)])
        assert f"{'val' if command == 'validate' else 'test'}/accuracy" in capsys.readouterr().out
    main(["predict", "--config", str(config)])
    lines = (newest(tmp_path / "runs") / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 24
    row = json.loads(lines[0])
    assert row["options"] == [" bad", " good"]
    assert row["prediction"] == row["options"][row["scores"].index(max(row["scores"]))]
    assert row["answer"] in row["options"]


def test_a_trained_checkpoint_is_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipe(tmp_path, "FOAdam")
    run = fit(config, "--scoreboard.test=true", "--model.strategy.lr=0.001")
    capsys.readouterr()
    main(["test", "--config", str(config), "--ckpt_path=best"])
    expected = json.loads((run / "result.json").read_text())["final"]["test accuracy"]
    shown = re.search(r"test/accuracy\s*│\s*([0-9.]+)", capsys.readouterr().out)
    assert shown is not None
    assert float(shown.group(1)) == pytest.approx(expected)


def test_several_configs_groups_and_print_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = yaml.safe_load(recipe(tmp_path).read_text())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "sparse.yaml").write_text(
        yaml.safe_dump(
            {
                "backbone": "sample",
                "strategy": {"class_path": "SparseMeZO", "init_args": {"lr": 1e-5, "eps": 1e-3, "keep_ratio": 0.5}},
            }
        )
    )
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump({**base, "model": "model/sparse.yaml"}))
    (tmp_path / "over.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": 3}}))
    with pytest.raises(SystemExit):
        main(
            ["fit", "--config", str(tmp_path / "whole.yaml"), "--config", str(tmp_path / "over.yaml"), "--print_config"]
        )
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["strategy"]["class_path"].endswith("SparseMeZO")
    assert printed["model"]["strategy"]["init_args"]["keep_ratio"] == 0.5
    assert printed["trainer"]["max_steps"] == 3
    assert printed["trainer"]["val_check_interval"] == 4


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--model.strategy.help=SparseMeZO", "--model.strategy.keep_ratio"),
        ("--data.help=JsonlTask", "--data.prompt"),
        ("--trainer.callbacks.help=MemoryProfiler", "resident"),
    ],
)
def test_help_of_a_class_shows_its_docstring(flag: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", flag])
    assert stop.value.code == 0
    assert expected in capsys.readouterr().out


def test_a_users_own_strategy_is_picked_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "mymodule.py").write_text(
        "from zolightning.strategies import ZOSGD\n\n\n"
        "class MyStrategy(ZOSGD):\n"
        '    """MeZO that halves its rate whenever dev is validated."""\n\n'
        "    def on_validation_end(self, module, metrics):\n"
        "        for group in module.trainer.optimizers[0].param_groups:\n"
        "            group['lr'] /= 2\n"
    )
    config = recipe(tmp_path)
    loaded = yaml.safe_load(config.read_text())
    loaded["model"]["strategy"]["class_path"] = "mymodule.MyStrategy"
    config.write_text(yaml.safe_dump(loaded))
    run = fit(config)
    assert dict(curves(run)["lr"])[10] == pytest.approx(2.5e-5)
    assert json.loads((run / "result.json").read_text())["strategy"] == "MyStrategy"
    fit(config, "--trainer.max_steps=8", f"--trainer.default_root_dir={tmp_path / 'halves'}")
    main(["fit", "--config", str(config), "--ckpt_path=last", f"--trainer.default_root_dir={tmp_path / 'halves'}"])
    a, b = (weights(root / "version_0/checkpoints/last.ckpt") for root in (tmp_path / "runs", tmp_path / "halves"))
    assert all(torch.equal(a[name], b[name]) for name in a), "a rate that the strategy set itself is resumed"


def test_progress_bar_and_logger_can_be_turned_off(tmp_path: Path) -> None:
    main(
        [
            *("fit", "--config", str(recipe(tmp_path))),
            *("--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.max_steps=2"),
        ]
    )


def test_fast_dev_run(tmp_path: Path) -> None:
    main(["fit", "--config", str(recipe(tmp_path)), "--trainer.fast_dev_run=true"])
    assert not (tmp_path / "runs" / "version_0" / "best").exists()


BAD: list[tuple[list[str], str]] = [
    (["--model.strategy=SparseMezo"], "did you mean SparseMeZO"),
    (["--data=SampleReview"], "did you mean SampleReviews"),
    (["--data=Nothing"], "there is no class Nothing"),
    (["--model.strategy.eps=0"], "eps, the smoothing parameter, must be a positive number"),
    (["--model.strategy.eps=-1"], "eps, the smoothing parameter, must be a positive number"),
    (["--model.strategy.lr=-1"], "lr must be a number from 0 on"),
    (["--model.strategy.lr=fast"], "lr"),
    (["--model.micro_batch_size=0"], "micro_batch_size"),
    (["--trainer.precision=bf16-true"], "model.dtype"),
    (["--trainer.precision=16-mixed"], "model.dtype"),
    (["--trainer.accumulate_grad_batches=2"], "micro_batch_size"),
    (["--trainer.gradient_clip_val=1.0"], "clip_norm"),
    (["--model.backbone=./nowhere"], "there is no folder ./nowhere"),
    (["--model.backbone=empty"], "no config.json"),
    (["--model.backbone=weightless"], "no weights"),
    (["--model.backbone=classifier"], "is BertForSequenceClassification, neither a causal language model"),
    (["--data.num_train=100000"], "num_train"),
    (["--ckpt_path=last"], "no run under"),
    (["--ckpt_path=missing.ckpt"], "there is no missing.ckpt"),
    (["--data.batch_size=0"], "batch_size must be at least 1"),
    (["--checkpoint.monitor=val/acc"], "validation logs val/accuracy, val/loss"),
    (["--model.backbone=holey"], "lack model.layers.0.self_attn.q_proj.weight"),
    (["--data.options=[' bad',' bad']"], "the same tokens"),
    (["--data.max_length=2"], "max_length"),
    (["--model.scheme=lorra"], "did you mean lora"),
    (["--model.scheme=LoRA", "--model.scheme.r=0"], "r must be at least 1"),
    (["--model.scheme=bias_only"], "LlamaForCausalLM has no biases"),
    (["--model.scheme=prompt", "--model.layers=[1]"], "goes with scheme full or bias_only"),
    (["--model.layers=[0,4]"], "numbered from 0 to 3"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=lambda value: value[-1] if isinstance(value, list) else "")
def test_bad_input_ends_before_training_with_what_to_mend(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_backbones(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(recipe(tmp_path)), *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("runs/*/checkpoints/*"))


def test_keep_ratio_out_of_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("0", "1.5", "-0.2"):
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(recipe(tmp_path, "SparseMeZO")), f"--model.strategy.keep_ratio={value}"])
        assert "keep_ratio" in capsys.readouterr().err


def bad_backbones(folder: Path) -> None:
    from transformers import BertConfig, LlamaConfig

    (folder / "empty").mkdir()
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(folder / "weightless")
    BertConfig(architectures=["BertForSequenceClassification"]).save_pretrained(folder / "classifier")
    (folder / "classifier" / "model.safetensors").touch()
    shutil.copytree(MODEL, folder / "holey")
    state = load_file(MODEL / "model.safetensors")
    del state["model.layers.0.self_attn.q_proj.weight"]
    save_file(state, folder / "holey" / "model.safetensors", metadata={"format": "pt"})


def test_help_imports_nothing_slow_beyond_lightning() -> None:
    code = (
        "import sys, lightning.pytorch.cli; before = set(sys.modules); import zolightning.cli; "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}"
        " & {'datasets', 'matplotlib', 'pandas', 'peft', 'tensorboard', 'tokenizers', 'transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_console_script_is_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="zolightning")
    loaded: Any = script.load()
    assert loaded is main
