"""What every task shares, on a task of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from zolightning.errors import ConfigurationError
from zolightning.models.question import Example, Question
from zolightning.models.scoring import option_scores
from zolightning.tasks import Source, Task
from zolightning.tasks.encoding import encode
from zolightning.tasks.records import Record


class Colours(Task):
    """Is a thing red or blue?"""

    source = Source(
        hub="org/colours", train_file="train.jsonl", validation_file="val.jsonl", rename={"colour": "label"}
    )
    fields = ("thing", "label")
    options = (" red", " blue")
    labels: Mapping[str, int] = {"red": 0, "blue": 1}

    def prompt(self, fields: Mapping[str, object]) -> str:
        return f"{fields['thing']} is"


def rows(number: int, start: int = 0) -> list[dict[str, Any]]:
    colours = ("red", "Blue")
    return [
        {"thing": f"thing {index}" + " a" * (index % 5), "label": colours[index % 2]} for index in range(start, number)
    ]


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", rows(40))
    write(tmp_path / "val.jsonl", rows(50, start=40))
    return tmp_path


def small(folder: Path | None, **arguments: Any) -> Colours:
    sizes = {"num_train": 20, "num_dev": 10, "num_test": 100, "batch_size": 4}
    return Colours(data_dir=None if folder is None else str(folder), **(sizes | arguments))


def connected(folder: Path, words: PreTrainedTokenizerFast, **arguments: Any) -> Colours:
    task = small(folder, **arguments)
    task.setup("fit")
    task.connect(words, 64, seed=0)
    return task


def test_setup_splits_once_and_says_so(folder: Path, said: list[str]) -> None:
    task = small(folder)
    task.prepare_data()
    task.setup("fit")
    splits = task.splits
    task.setup("test")
    assert task.splits is splits
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (20, 10, 10)
    assert all(record.origin.startswith("val.jsonl") for record in splits.test)
    assert said == [f"Colours: 20 train, 10 dev, 10 test examples from {folder}"]


def test_without_a_training_file_the_validation_file_is_split_three_ways(folder: Path, said: list[str]) -> None:
    (folder / "train.jsonl").unlink()
    task = small(folder, num_train=5, num_dev=3, num_test=2)
    task.setup()
    origins = [record.origin for rows in vars(task.splits).values() for record in rows]
    assert len({*origins}) == 10
    assert said[0] == (f"{folder}: there is no train.jsonl; train, dev and test examples are all taken from val.jsonl")
    with pytest.raises(ConfigurationError, match="the only split, which has 10"):
        small(folder).setup()


def test_a_folder_without_the_files(folder: Path) -> None:
    (folder / "val.jsonl").unlink()
    with pytest.raises(ConfigurationError, match=r"must hold train\.jsonl and val\.jsonl.*it holds train\.jsonl"):
        small(folder).setup()


def test_more_than_there_is(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"num_train=40 .* 50 examples of the training split, which has 40"):
        small(folder, num_train=40).setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "^batch_size must be at least 1, got 0"),
        ({"eval_batch_size": 0}, "^eval_batch_size must be at least 1, got 0"),
        ({"num_train": 0}, "^num_train must be at least 1, got 0"),
        ({"num_dev": -1}, "^num_dev must be at least 1, got -1"),
        ({"num_test": 0}, "^num_test must be at least 1, got 0"),
        ({"max_length": 1}, "^max_length must be at least 2"),
        ({"options": [" red"]}, r"Colours has 2 options \[' red', ' blue'\], got \[' red'\]"),
        ({"objective": "f1"}, "^objective must be one of classification, lm, metric, got 'f1'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        small(None, **arguments)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"color": "red", "thing": "x"}, r"train\.jsonl:41: there is no field 'label'; found color, thing"),
        ({"thing": None, "label": "red"}, r"train\.jsonl:41: there is no field 'thing'; found label"),
        ({}, r"train\.jsonl:41: there is no field 'thing'; found none"),
        ({"thing": "x", "label": "green"}, r"train\.jsonl:41: label='green' is no label; allowed are red, blue"),
    ],
)
def test_every_record_is_checked_used_or_not(folder: Path, row: dict[str, Any], message: str) -> None:
    write(folder / "train.jsonl", [*rows(40), row])
    with pytest.raises(ConfigurationError, match=message):
        small(folder, num_train=1, num_dev=1).setup()


def test_the_hub(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    calls = []

    def load(path: str, name: str | None, *, split: str) -> datasets.Dataset:
        calls.append((path, name, split))
        made = rows(40) if split == "train" else rows(50, start=40)
        return datasets.Dataset.from_list([{"thing": row["thing"], "colour": row["label"]} for row in made])

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = small(None)
    task.prepare_data()
    task.setup()
    assert calls == [("org/colours", None, "train"), ("org/colours", None, "validation")] * 2
    assert {*task.splits.train[0].fields} == {"thing", "label"}
    assert said == ["Colours: 20 train, 10 dev, 10 test examples from org/colours"]


def test_a_task_must_have_a_source() -> None:
    class Nowhere(Task):
        fields = ("thing",)
        options = (" red", " blue")

        def prompt(self, fields: Mapping[str, object]) -> str:
            return "it is"

    with pytest.raises(ConfigurationError, match="Nowhere must state its source"):
        Nowhere().setup()


def test_before_setup_and_connect(folder: Path) -> None:
    task = small(folder)
    with pytest.raises(RuntimeError, match="setup"):
        _ = task.splits
    with pytest.raises(RuntimeError, match="connect"):
        task.train_dataloader()


def test_loaders(folder: Path, words: PreTrainedTokenizerFast) -> None:
    task = connected(folder, words, num_train=18)
    assert [batch.num_examples for batch in task.val_dataloader()] == [10]
    assert sorted(batch.num_examples for batch in task.train_dataloader()) == [2, 4, 4, 4, 4]
    ordered = [example for batch in task.predict_dataloader() for example in batch.answers.tolist()]
    assert ordered == [task.answer(record) for record in task.splits.test]
    assert sorted(answer for batch in task.test_dataloader() for answer in batch.answers.tolist()) == sorted(ordered)
    assert connected(folder, words, eval_batch_size=3).eval_batch_size == 3


def test_the_runs_seed_orders_the_training_batches(folder: Path, words: PreTrainedTokenizerFast) -> None:
    task = connected(folder, words)
    first = [batch.input_ids.tolist() for batch in task.train_dataloader()]
    assert [batch.input_ids.tolist() for batch in task.train_dataloader()] == first
    task.connect(words, 64, seed=1)
    assert [batch.input_ids.tolist() for batch in task.train_dataloader()] != first


def test_connecting_again_tokenises_only_for_another_tokenizer_or_length(
    folder: Path,
    words: PreTrainedTokenizerFast,
    word_piece_maker: Callable[..., PreTrainedTokenizerFast],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def counted(questions: Sequence[Question], tokenizer: PreTrainedTokenizerFast, max_length: int) -> list[Example]:
        calls.append(max_length)
        return encode(questions, tokenizer, max_length)

    monkeypatch.setattr("zolightning.tasks.prepared.encode", counted)
    task = connected(folder, words)
    task.connect(words, 64, seed=0)
    task.connect(words, 64, seed=1)
    assert len(calls) == 1
    # Another run finds them on disk.
    connected(folder, words)
    assert len(calls) == 1
    task.connect(words, 63, seed=1)
    task.connect(word_piece_maker(bos=False), 63, seed=1)
    assert len(calls) == 3


def test_cut_prompts_are_counted(folder: Path, words: PreTrainedTokenizerFast, said: list[str]) -> None:
    # The second time the examples come from the disk.
    for _ in range(2):
        task = small(folder)
        task.connect(words, 15, seed=0)
        prompts = [task.prompt(record.fields) for split in vars(task.splits).values() for record in split]
        # A token for BOS and one for each letter; four for " blue".
        cut = sum(1 + len(prompt.replace(" ", "")) > 15 - 4 for prompt in prompts)
        assert 0 < cut < 40
        assert (
            said[-1]
            == f"{cut} of 40 prompts did not fit, with their answers, into 15 tokens and were cut from the left"
        )


def test_a_prompt_without_room_names_its_line(folder: Path, words: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigurationError, match=r"(train|val)\.jsonl:\d+: an answer may take 4 of 4 tokens"):
        small(folder).connect(words, 4, seed=0)


def test_other_words_for_the_options(folder: Path, words: PreTrainedTokenizerFast) -> None:
    task = connected(folder, words, options=[" x", " y"])
    batch = next(iter(task.val_dataloader()))
    assert {*batch.counts.flatten().tolist()} == {1}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=120, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )


@pytest.mark.parametrize(("objective", "weight"), [("classification", 4), ("lm", 14)])
def test_loss_scores_and_metrics(
    folder: Path, words: PreTrainedTokenizerFast, model: LlamaForCausalLM, objective: Any, weight: int
) -> None:
    task = connected(folder, words, objective=objective)
    train, dev = next(iter(task.train_dataloader())), next(iter(task.val_dataloader()))
    if objective == "lm":
        # Three tokens of " red" or four of " blue", and only the right ones.
        assert train.counts.shape == (4, 1)
        weight = int(train.counts.sum())
    assert task.loss_weight(train) == weight
    with torch.no_grad():
        loss = task.loss(model, train)
        dev_loss, outcome = task.assess(model, dev)
        scores = task.scores(model, dev)
        torch.testing.assert_close(option_scores(model, dev), scores)
        assert torch.equal(outcome["preds"], scores.argmax(-1))
        assert torch.equal(outcome["target"], dev.answers)
    assert loss.shape == dev_loss.shape == ()
    assert loss.dtype == torch.float32
    assert scores.shape == (10, 2)
    metrics = task.metrics()
    metrics.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    assert metrics.compute()["accuracy"].item() == pytest.approx(2 / 3)
    assert task.metrics() is not metrics


def test_for_a_model_the_prompt_is_read_once_for_all_options(
    folder: Path, words: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    apart, together = connected(folder, words), connected(folder, words)
    together.adapt(model)
    for name in ("train", "val", "test", "predict"):
        loaders = (getattr(task, f"{name}_dataloader")() for task in (apart, together))
        for one, other in zip(*loaders, strict=True):
            assert other.num_tokens < one.num_tokens
            with torch.no_grad():
                torch.testing.assert_close(together.loss(model, other), apart.loss(model, one))
                torch.testing.assert_close(together.scores(model, other), apart.scores(model, one))


def test_options_of_one_token_need_their_own_logits_only(
    folder: Path, words: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    task, logits = connected(folder, words, options=[" x", " y"]), list[int]()
    handle = model.lm_head.register_forward_hook(lambda _, __, output: logits.append(output.size(-1)))
    dev = next(iter(task.val_dataloader()))
    with torch.no_grad():
        loss, outcome = task.assess(model, dev)
        likelihoods = task.scores(model, dev)
    handle.remove()
    assert logits == [2, 120]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(likelihoods, dev.answers), rtol=0, atol=1e-6)
    assert torch.equal(outcome["preds"], likelihoods.argmax(-1))
    # Of all the vocabulary's tokens these are two.
    assert (likelihoods.exp().sum(-1) < 0.5).all()


def test_options_of_the_records_own(folder: Path, words: PreTrainedTokenizerFast) -> None:
    class Own(Colours):
        def option_texts(self, fields: Mapping[str, object]) -> Sequence[str]:
            return [" red", " blue", " green"] if "1" in str(fields["thing"]) else super().option_texts(fields)

        def answer(self, record: Record) -> int:
            return int(str(record.fields["label"]).lower() == "blue")

    task = Own(data_dir=str(folder), num_train=20, num_dev=10)
    task.connect(words, 64, seed=0)
    assert {tuple(row) for batch in task.train_dataloader() for row in batch.present.tolist()} == {
        (True, True, True),
        (True, True, False),
    }
