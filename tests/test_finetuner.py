"""The FineTuner from Python, and what it promises of batches, precision and its Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn

from zolightning import FineTuner
from zolightning.callbacks import LastCheckpoint
from zolightning.closures import BatchLoss
from zolightning.errors import ConfigurationError
from zolightning.models.batch import OptionBatch
from zolightning.models.loading import load_model
from zolightning.strategies import (
    FOSGD,
    ZOSGD,
    BlockwiseZO,
    FOAdam,
    ForwardGradient,
    HybridZOFO,
    SparseMeZO,
    Strategy,
)
from zolightning.tasks import SampleReviews


def sample_task(**settings: Any) -> SampleReviews:
    return SampleReviews(**{"batch_size": 8, "num_train": 40, "num_dev": 16, "num_test": 16, **settings})


def train(strategy: Strategy, steps: int = 3, task: SampleReviews | None = None, **settings: Any) -> FineTuner:
    module = FineTuner(backbone="sample", strategy=strategy, seed=0, **settings)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=1,
    )
    trainer.fit(module, datamodule=task or sample_task())
    assert trainer.global_step == steps
    return module


@pytest.mark.parametrize("strategy", [ZOSGD(lr=1e-3, eps=1e-3), FOSGD(lr=1e-2), ForwardGradient(lr=1e-3)])
def test_micro_batches_train_as_one_batch(strategy: Strategy) -> None:
    whole, parts = (train(strategy, dtype="float64", micro_batch_size=size).network for size in (None, 3))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        # Llama's norms compute in float32 whatever the weights are.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", [ZOSGD(lr=1e-3, eps=1e-3), FOSGD(lr=1e-2)])
def test_training_with_shared_prompts_is_training_with_a_prompt_for_each_option(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    loss = SampleReviews.loss

    def watched(task: SampleReviews, model: nn.Module, batch: OptionBatch) -> Tensor:
        seen.append(batch.segments is not None)
        return loss(task, model, batch)

    monkeypatch.setattr(SampleReviews, "loss", watched)
    options = [" bad it was", " good all in all"]
    shared = train(strategy, task=sample_task(options=options), dtype="float64").network
    assert all(seen)
    monkeypatch.setattr(SampleReviews, "adapt", lambda *_: None)
    seen.clear()
    apart = train(strategy, task=sample_task(options=options), dtype="float64").network
    assert not any(seen)
    for a, b in zip(shared.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("objective", ["classification", "lm"])
def test_losses_of_micro_batches_average_to_the_batch(objective: Any) -> None:
    from zolightning.models.loading import load_tokenizer

    model, task = load_model("sample", "float64", "sdpa"), sample_task(objective=objective, batch_size=10)
    task.connect(load_tokenizer("sample"), None, seed=0)
    batch = next(iter(task.train_dataloader()))
    with torch.no_grad():
        whole = BatchLoss(task, model, batch, None)()
        for size in (1, 3, 7, 10, 100):
            torch.testing.assert_close(BatchLoss(task, model, batch, size)(), whole, rtol=0, atol=1e-6)


def test_bfloat16_weights_leave_rotary_frequencies_and_losses_in_float32() -> None:
    seen: list[Tensor] = []

    class Watching(ZOSGD):
        def training_step(self, optimizer: Any, closure: Any) -> Tensor:
            loss = super().training_step(optimizer, closure)
            seen.append(loss)
            return loss

    network = train(Watching(lr=1e-3, eps=1e-2), dtype="bfloat16").network
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert {b.dtype for name, b in network.named_buffers() if "inv_freq" in name} == {torch.float32}
    assert {loss.dtype for loss in seen} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_zero_learning_rate_changes_no_bit(dtype: Any) -> None:
    network = train(SparseMeZO(lr=0.0, eps=1e-3, keep_ratio=0.2), steps=10, dtype=dtype).network
    start = load_model("sample", dtype, "sdpa")
    for a, b in zip(network.parameters(), start.parameters(), strict=True):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def test_hooks_of_a_strategy_are_called_in_order() -> None:
    calls: list[str] = []

    class Noting(FOAdam):
        def setup(self, model: nn.Module) -> None:
            calls.append("setup")

        def on_train_start(self, module: FineTuner) -> None:
            calls.append("start")

        def on_train_batch_end(self, module: FineTuner) -> None:
            calls.append("batch")

        def on_validation_end(self, module: FineTuner, metrics: Any) -> None:
            assert set(metrics) == {"val/accuracy", "val/loss"}
            calls.append("validation")

    train(Noting(lr=1e-3), steps=2)
    assert calls == ["setup", "start", "batch", "batch", "validation"]


def test_the_strategys_own_state_is_saved_and_restored(tmp_path: Path) -> None:
    class Counting(ZOSGD):
        count = 0

        def on_train_batch_end(self, module: FineTuner) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.count = state_dict["count"]

    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=2, default_root_dir=tmp_path, **settings)
    trainer.fit(FineTuner("sample", Counting(lr=1e-4, eps=1e-3)), datamodule=sample_task())
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    resumed = Counting(lr=1e-4, eps=1e-3)
    again = Trainer(max_steps=3, default_root_dir=tmp_path, **settings)
    again.fit(FineTuner("sample", resumed), datamodule=sample_task(), ckpt_path=tmp_path / "state.ckpt")
    assert resumed.count == 3


def test_a_complete_run_that_reports_nothing_ends_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "max_steps": 2}
    caplog.set_level("INFO")
    for path in (None, tmp_path / "checkpoints" / "last.ckpt"):
        trainer = Trainer(default_root_dir=tmp_path, callbacks=[LastCheckpoint()], **settings)
        trainer.fit(FineTuner("sample", ZOSGD(lr=1e-4, eps=1e-3)), datamodule=sample_task(), ckpt_path=path)
        assert trainer.global_step == 2
    assert "without its results" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "bf16-true"}, "model.dtype"),
        ({"accumulate_grad_batches": 2}, "micro_batch_size"),
        ({"gradient_clip_val": 1.0}, "clip_norm"),
        ({"devices": 2, "strategy": "ddp_notebook"}, "DDPStrategy on 2 processes: set it to zo_ddp or zo_fsdp"),
    ],
)
def test_a_trainer_that_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    trainer = Trainer(accelerator="cpu", max_steps=1, logger=False, **settings)
    module = FineTuner(backbone="sample", strategy=ZOSGD(lr=1e-3, eps=1e-3))
    module.trainer = trainer
    with pytest.raises(ConfigurationError, match=message):
        module.configure_callbacks()


def test_a_datamodule_that_is_no_task_is_refused() -> None:
    class Other(LightningDataModule):
        def train_dataloader(self) -> list[int]:
            return [1]

    trainer = Trainer(accelerator="cpu", max_steps=1, logger=False)
    with pytest.raises(ConfigurationError, match="Task"):
        trainer.fit(FineTuner(backbone="sample", strategy=ZOSGD(lr=1e-3, eps=1e-3)), datamodule=Other())


def test_the_model_is_not_there_before_it_is_loaded() -> None:
    with pytest.raises(RuntimeError, match="configure_model"):
        _ = FineTuner(backbone="sample", strategy=ZOSGD(lr=1e-3, eps=1e-3)).network


def test_weights_move_by_a_metric_alone() -> None:
    clean = load_model("sample", "float32", "sdpa")
    module = train(ZOSGD(lr=1e-4, eps=0.3), 5, sample_task(objective="metric"))
    assert any(not torch.equal(a, b) for a, b in zip(module.network.parameters(), clean.parameters(), strict=True))
    loss = module.trainer.callback_metrics["train/loss"]
    assert -1 <= float(loss) <= 0, "minus an accuracy"


@pytest.mark.parametrize(
    "strategy",
    [
        FOSGD(lr=1e-2),
        ForwardGradient(lr=1e-3),
        HybridZOFO(ZOSGD(lr=1e-3, eps=1e-3), FOSGD(lr=1e-2)),
        ZOSGD(lr=1e-3, eps=1e-3, mask="snip", sparsity=0.5),
        BlockwiseZO(ZOSGD(lr=1e-3, eps=1e-3, mask="snip", sparsity=0.5)),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_what_needs_a_gradient_is_given_none_but_losses_that_have_one(strategy: Strategy) -> None:
    with pytest.raises(ConfigurationError, match=r"no gradient.*ZOSGD"):
        train(strategy, 1, sample_task(objective="metric"))
