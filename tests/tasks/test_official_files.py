"""Tasks whose official files nest, on the real files: counts, records, prompts, scores and generated answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from zolightning.evaluation import evaluate
from zolightning.tasks import DROP, SIQA, AQuA, MultiRC, ReCoRD, SQuAD, Task

SMALL: dict[str, Any] = {"num_train": 20, "num_dev": 10, "num_test": 8, "batch_size": 4, "eval_batch_size": 8}


def folder_with(folder: Path, **links: Path) -> str:
    """Make a folder that holds files under their official names."""
    for name, path in links.items():
        (folder / name.replace("_dot_", ".")).symlink_to(path)
    return str(folder)


def scored(task: Task, stories: Path) -> dict[str, float]:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    task.connect(tokenizer, 512, seed=0)
    model = AutoModelForCausalLM.from_pretrained(stories)
    task.adapt(model)
    assert 0.1 < float(task.loss(model, next(iter(task.train_dataloader()))).detach()) < 12
    with torch.no_grad():
        told = task.predictions(model, next(iter(task.predict_dataloader())))
    assert [row["prompt"] for row in told] == [task.question(record).prompt for record in task.splits.test]
    assert json.loads(json.dumps(told)) == told
    return evaluate(task, model, task.test_dataloader(), torch.device("cpu"))


def test_multirc(shared_data: Path, stories: Path) -> None:
    task = MultiRC(data_dir=str(shared_data / "MultiRC"), **SMALL)
    assert task.source is not None
    train, validation = task.source.read_folder(shared_data / "MultiRC")
    assert train is not None
    for rows, counts in ((train, (456, 5131, 27243)), (validation, (83, 953, 4848))):
        records = task.checked(rows)
        assert (len(rows), len({task.family(record) for record in records}), len(records)) == counts
    task.setup()
    families = [{task.family(record) for record in split} for split in vars(task.splits).values()]
    assert not families[0] & families[1]
    values = scored(task, stories)
    assert {*values} == {"f1a", "exact_match", "accuracy", "loss"}
    assert all(0 <= values[name] <= 1 for name in ("f1a", "exact_match", "accuracy"))


def test_record(shared_data: Path, stories: Path, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, val_dot_jsonl=shared_data / "ReCoRD" / "train_fewglue32.jsonl")
    task = ReCoRD(data_dir=folder, **(SMALL | {"num_train": 10, "num_dev": 5}))
    task.setup()
    first = task.checked(task.source.read_folder(tmp_path)[1])[0] if task.source else None
    assert first is not None
    entities, options = first.fields["entities"], task.option_texts(first.fields)
    assert isinstance(entities, list)
    assert len(entities) == len(set(entities)) == len(options)
    assert "@highlight" not in task.prompt(first.fields)
    values = scored(task, stories)
    assert {*values} == {"f1", "exact_match", "loss"}
    assert 0 <= values["exact_match"] <= values["f1"] <= 1


def test_squad(shared_data: Path, stories: Path) -> None:
    task = SQuAD(data_dir=str(shared_data / "SQuAD"), **SMALL)
    assert task.source is not None
    records = task.checked(task.source.read_folder(shared_data / "SQuAD")[1])
    assert len(records) == 10570
    assert task.prompt(records[0].fields).startswith("Title: Super Bowl 50\nContext: Super Bowl 50 was an American")
    assert task.prompt(records[0].fields).endswith(
        "\nQuestion: Which NFL team represented the AFC at Super Bowl 50?\nAnswer:"
    )
    assert task.golds(records[0].fields) == ["Denver Broncos"] * 3
    assert 0 <= scored(task, stories)["f1"] <= 1


def test_drop(shared_data: Path, stories: Path, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, drop_dataset_dev_dot_json=shared_data / "DROP" / "drop_contrast_sets_test.json")
    task = DROP(data_dir=folder, **SMALL)
    assert task.source is not None
    records = task.checked(task.source.read_folder(tmp_path)[1])
    assert len(records) == 947
    assert all(task.golds(record.fields) for record in records)
    assert 0 <= scored(task, stories)["f1"] <= 1


def test_aqua(shared_data: Path, stories: Path) -> None:
    task = AQuA(data_dir=str(shared_data / "AQuA"), **SMALL)
    assert task.source is not None
    assert len(task.checked(task.source.read_folder(shared_data / "AQuA")[1])) == 254
    assert {*scored(task, stories)} == {"accuracy", "loss"}


def test_labels_in_a_file_of_their_own(tmp_path: Path) -> None:
    row = {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "c"}
    for name, labels in (("train", "1\n2\n3\n"), ("dev", "3\n2\n")):
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * len(labels.split()))
        (tmp_path / f"{name}-labels.lst").write_text(labels)
    task = SIQA(data_dir=str(tmp_path), num_train=2, num_dev=1)
    task.setup()
    assert sorted(task.answer(record) for record in task.splits.test) == [1, 2]
    (tmp_path / "dev-labels.lst").write_text("3\n")
    with pytest.raises(ValueError, match=r"dev-labels\.lst: has 1 labels, but dev\.jsonl has 2 records"):
        SIQA(data_dir=str(tmp_path)).setup()
