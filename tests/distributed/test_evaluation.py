"""Evaluation on two processes: every example once, and the numbers of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryF1Score, BinaryRecall, MulticlassMatthewsCorrCoef

from tests.distributed import jobs
from tests.distributed.pair import Pair
from zolightning.models.batch import OptionBatch, collate
from zolightning.models.question import Example
from zolightning.strategies import FOSGD, ZOSGD
from zolightning.tasks import MultiRC
from zolightning.tasks.answers import token_f1
from zolightning.tasks.metrics import TextScore

ZO = ZOSGD(lr=1e-4, eps=1e-3)


@pytest.mark.parametrize(
    "data",
    [{"eval_batch_size": 8}, {"eval_batch_size": 1}, {"eval_batch_size": 5, "objective": "lm"}],
    ids=["some", "one at a time", "tokens"],
)
def test_validate_test_and_scoring_give_one_processs_numbers(data: dict[str, Any], pair: Pair) -> None:
    first, second = pair.run(jobs.judge, 2, FOSGD(lr=1e-3), data)
    alone = jobs.judge(1, FOSGD(lr=1e-3), data)
    assert first == second
    assert first.forwards == alone.forwards
    for ours, theirs in zip(first[:3], alone[:3], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            # Counts are exact; losses are added up in another order, of batches of other shapes.
            assert ours[name] == (pytest.approx(value, rel=1e-5) if "loss" in name else value)


def batches(count: int, size: int) -> list[OptionBatch]:
    """Examples that are told apart by their prompts."""
    examples = [Example([number, 1], [[1], [2]], [0, 0], 0) for number in range(count)]
    return [collate(examples[first : first + size]) for first in range(0, count, size)]


@pytest.mark.parametrize(("count", "size"), [(13, 4), (1, 4), (3, 1)])
def test_metrics_of_every_kind_are_those_of_all_processes(count: int, size: int, pair: Pair) -> None:
    generator = torch.Generator().manual_seed(count)
    preds, target, groups = (torch.randint(0, top, (count,), generator=generator) for top in (2, 2, 4))
    options: tuple[tuple[MetricCollection, dict[str, Any]], ...] = (
        (MultiRC().metrics(), {"preds": preds, "target": target, "groups": groups}),
        (
            MetricCollection({"f1": BinaryF1Score(), "recall": BinaryRecall(), "mcc": MulticlassMatthewsCorrCoef(2)}),
            {"preds": preds, "target": target},
        ),
        (
            MetricCollection({"f1": TextScore(token_f1)}),
            {"texts": [f"the {p} of {t}" for p, t in zip(preds, target, strict=True)], "golds": [["1", "0 2"]] * count},
        ),
    )
    for metrics, rows in options:
        first, second = pair.run(jobs.compute, 2, metrics, rows, batches(count, size))
        assert first == second == pytest.approx(jobs.compute(1, metrics, rows, batches(count, size)), rel=1e-6)


def test_predictions_are_written_once_each_and_in_order(pair: Pair, tmp_path: Path) -> None:
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        if processes == 2:
            pair.run(jobs.predict, 2, ZO, folder)
        else:
            jobs.predict(1, ZO, folder)
    alone, together = (
        [json.loads(line) for line in (tmp_path / str(processes) / "predictions.jsonl").read_text().splitlines()]
        for processes in (1, 2)
    )
    assert len(alone) == len(together) == 9
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.pop("scores") == pytest.approx(theirs.pop("scores"), rel=1e-5)
        assert ours == theirs
