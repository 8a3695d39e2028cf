"""The loader: every example once an epoch, and resumed runs that see what an uninterrupted one sees."""

from __future__ import annotations

import warnings
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn

from zolightning.errors import ConfigurationError
from zolightning.models.batch import OptionBatch
from zolightning.models.question import Example
from zolightning.tasks.loader import EvaluationLoader, LengthGroupedBatches, ResumableLoader

EXAMPLES = 13
BATCH = 2
EPOCH = 7


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 10),
)
@settings(max_examples=60, deadline=None)
def test_each_epoch_visits_each_example_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    order = LengthGroupedBatches(lengths, batch_size, seed)
    batches = order.epoch(epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == len(order)
    assert sum(len(batch) < batch_size for batch in batches) <= 1
    assert order.epoch(epoch) == batches


def test_epochs_and_seeds_differ() -> None:
    orders = [LengthGroupedBatches(range(100), 8, seed).epoch(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({str(order) for order in orders}) == 4


def test_batches_hold_examples_of_like_length() -> None:
    lengths = [(index * 37) % 400 for index in range(400)]
    batches = LengthGroupedBatches(lengths, 8, seed=0).epoch(0)
    assert max(max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches) <= 8
    assert [lengths[batch[0]] for batch in batches] != sorted(lengths[batch[0]] for batch in batches)


@pytest.mark.parametrize(("longest_first", "expected"), [(True, [[2, 0], [1]]), (False, [[0, 1], [2]])])
def test_evaluation_batches_are_the_same_every_time(longest_first: bool, expected: list[list[int]]) -> None:
    examples = [Example([number] * length, [[0], [1]], [0, 0], 0) for number, length in enumerate((5, 3, 9))]
    data = EvaluationLoader(examples, 2, longest_first=longest_first)
    next(iter(data))
    assert len(data) == 2
    assert [numbers(batch) for batch in data] == expected


def loader() -> ResumableLoader:
    # Each example's only prompt token is its number.
    examples = [Example([number], [[0], [1]], [0, 0], 0) for number in range(EXAMPLES)]
    return ResumableLoader(examples, LengthGroupedBatches([2] * EXAMPLES, BATCH, seed=3))


def numbers(batch: OptionBatch) -> list[int]:
    return [int(number) for number in batch.input_ids[:, 0]]


def uninterrupted(batches: int) -> list[list[int]]:
    order = loader().order
    return [list(batch) for epoch in range(batches // EPOCH + 1) for batch in order.epoch(epoch)][:batches]


def test_iterating_goes_through_the_epochs() -> None:
    data = loader()
    assert len(data) == EPOCH
    assert [numbers(batch) for _ in range(3) for batch in data] == uninterrupted(3 * EPOCH)


def test_what_comes_next_does_not_depend_on_when_iterators_are_made() -> None:
    data, seen = loader(), []
    for taken in (0, 3, 0, 7, 1, 5, 2, 3):
        seen += [numbers(batch) for batch in islice(data, taken)]
    assert seen == uninterrupted(21)


@pytest.mark.parametrize("place", range(2 * EPOCH + 1))
def test_a_restored_loader_goes_on_where_the_other_was(place: int) -> None:
    first, second = loader(), loader()
    for _ in range(place):
        next(iter(first))
    assert first.state_dict() == {"epoch": max(0, place - 1) // EPOCH, "batch": place and (place - 1) % EPOCH + 1}
    second.load_state_dict(first.state_dict())
    assert [numbers(batch) for batch in second] == uninterrupted(4 * EPOCH)[place : place + EPOCH]


def test_a_state_of_other_data_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"after batch 8 of an epoch, but an epoch has 7 batches"):
        loader().load_state_dict({"epoch": 0, "batch": 8})


class Recorder(LightningModule):
    """Steps an optimizer by hand and notes which examples it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: OptionBatch) -> None:
        self.seen.append(numbers(batch))
        cast("LightningOptimizer", self.optimizers()).step(closure=lambda: torch.zeros(()))

    def validation_step(self, batch: OptionBatch) -> None:
        self.log("score", float(len(self.seen)), batch_size=batch.num_examples)

    def train_dataloader(self) -> ResumableLoader:
        return loader()

    def val_dataloader(self) -> ResumableLoader:
        return loader()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAfter(Callback):
    """Saves by ``trainer.save_checkpoint`` after given numbers of steps, and stops as a killed run would."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


class SaveAtEnd(Callback):
    """Saves when the run is over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def fit(
    path: Path, steps: int, interval: int, callbacks: list[Callback], resume: Path | None = None
) -> list[list[int]]:
    model = Recorder()
    trainer = Trainer(
        max_steps=steps,
        val_check_interval=interval,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=callbacks,
        default_root_dir=path,
        num_sanity_val_steps=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, ckpt_path=resume, weights_only=False)
    assert trainer.global_step == steps
    return model.seen


# Divides the epoch of 7, does not, is one batch, exceeds it, exceeds it twice.
@pytest.mark.parametrize("interval", [7, 3, 1, 10, 15])
def test_runs_resumed_from_validation_checkpoints(tmp_path: Path, interval: int) -> None:
    total = 3 * EPOCH + 2
    keep = ModelCheckpoint(tmp_path, filename="{step}", monitor="score", mode="max", save_top_k=-1)
    assert fit(tmp_path, total, interval, [keep]) == uninterrupted(total)
    checkpoints = {int(path.stem.removeprefix("step=")): path for path in tmp_path.glob("step=*.ckpt")}
    assert sorted(checkpoints) == list(range(interval, total + 1, interval))
    for step, path in checkpoints.items():
        if step < total:
            assert fit(tmp_path, total, interval, [], resume=path) == uninterrupted(total)[step:], step


@pytest.mark.parametrize("interval", [7, 3, 10])
@pytest.mark.parametrize("step", [1, 3, 6, 7, 8, 13, 14, 15, 20])
def test_runs_resumed_from_saved_checkpoints(tmp_path: Path, interval: int, step: int) -> None:
    total = 3 * EPOCH + 2
    path = tmp_path / "saved.ckpt"
    fit(tmp_path, step + 1, interval, [SaveAfter(step, path)])
    assert fit(tmp_path, total, interval, [], resume=path) == uninterrupted(total)[step:]


@pytest.mark.parametrize("step", [4, 7, 14])
def test_runs_that_ended_are_extended(tmp_path: Path, step: int) -> None:
    total, path = 3 * EPOCH, tmp_path / "ended.ckpt"
    fit(tmp_path, step, 3, [SaveAtEnd(path)])
    assert fit(tmp_path, total, 3, [], resume=path) == uninterrupted(total)[step:]
