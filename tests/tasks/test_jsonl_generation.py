"""The user's own files: options of each record's own, and answers to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from zolightning.errors import ConfigurationError
from zolightning.evaluation import evaluate
from zolightning.optim import ZerothOrderOptimizer
from zolightning.sample import MODEL
from zolightning.strategies import ZOSGD
from zolightning.tasks import JsonlGeneration, JsonlTask
from zolightning.tasks.records import Record

SIZES: dict[str, Any] = {"num_train": 4, "num_dev": 2, "num_test": 3, "batch_size": 2}


def written(folder: Path, rows: list[dict[str, Any]], name: str = "mine.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def generation(folder: Path, **arguments: Any) -> JsonlGeneration:
    rows = [{"text": f"so so {i}", "said": ["fine film", "fine"] if i % 2 else "dull"} for i in range(10)]
    defaults: dict[str, Any] = {
        "train": written(folder, rows),
        "prompt": "{text}:",
        "answer": "said",
        "max_new_tokens": 4,
    }
    return JsonlGeneration(**(defaults | SIZES | arguments))


def test_answers_are_written_and_judged(tmp_path: Path) -> None:
    task = generation(tmp_path)
    task.connect(AutoTokenizer.from_pretrained(MODEL), 64, seed=0)
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    values = evaluate(task, model, task.test_dataloader(), torch.device("cpu"))
    assert {*values} == {"f1", "exact_match", "loss"}
    rows = task.predictions(model, next(iter(task.predict_dataloader())))
    assert [row["prompt"] for row in rows] == [task.question(record).prompt for record in task.splits.test]
    assert all(row["answers"] in (["fine film", "fine"], ["dull"]) for row in rows)


def test_a_metric_of_written_answers_trains_by_probes(tmp_path: Path) -> None:
    task = generation(tmp_path, objective="metric")
    task.connect(AutoTokenizer.from_pretrained(MODEL), 64, seed=0)
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    batch = next(iter(task.train_dataloader()))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = ZOSGD(lr=1e-3, eps=0.3).configure(model)
    assert isinstance(optimizer, ZerothOrderOptimizer)
    losses = [float(optimizer.step(lambda: task.loss(model, batch))) for _ in range(4)]
    assert all(-1 <= loss <= 0 for loss in losses)
    moved = any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    # Where both probes write what is as good, the difference is zero, and nothing moves.
    assert moved or len(set(losses)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "{said}:"}, r"tells the answer, \{said\}"),
        ({"stop": ""}, "stop must be a string"),
        ({"max_new_tokens": 0}, "max_new_tokens at least 1"),
        ({"objective": "classification"}, "objective must be one of lm, metric, got 'classification'"),
        ({"metric": "accuracy", "objective": "metric"}, "metric must be one of exact_match, f1, got 'accuracy'"),
    ],
)
def test_bad_descriptions(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        generation(tmp_path, **arguments)


def test_a_record_without_an_answer(tmp_path: Path) -> None:
    rows = [{"text": "a", "said": []}]
    with pytest.raises(ConfigurationError, match=r"other\.jsonl:1: there is no right answer"):
        generation(tmp_path, train=written(tmp_path, rows, "other.jsonl")).setup()


def own(folder: Path, label: object) -> JsonlTask:
    rows = [{"text": "a", "choices": [" x", " y", " z"], "right": label}] * 9
    return JsonlTask(train=written(folder, rows), prompt="{text}", label="right", options="choices", **SIZES)


@pytest.mark.parametrize(("label", "answer"), [(2, 2), (" y", 1), (0, 0)])
def test_options_of_each_record_s_own(tmp_path: Path, label: object, answer: int) -> None:
    task = own(tmp_path, label)
    task.setup()
    question = task.question(task.splits.train[0])
    assert (question.options, question.answer) == ((" x", " y", " z"), answer)


def test_a_label_that_is_no_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"mine\.jsonl:1: right='y' is neither one of the options"):
        own(tmp_path, "y").setup()


def test_a_blank_is_for_masked_models(tmp_path: Path) -> None:
    record = Record({"text": "a", "l": "a"}, "f:1")
    with_blank, without = (
        JsonlTask(train="a", prompt=text, label="l", options={"a": " x", "b": " y"})
        for text in ("{text} <mask>", "{text}")
    )
    assert with_blank.cloze(record.fields) == "a <mask>"
    with pytest.raises(ConfigurationError, match="only a masked language model fills"):
        with_blank.prompt(record.fields)
    with pytest.raises(ConfigurationError, match="needs a blank"):
        without.cloze(record.fields)
