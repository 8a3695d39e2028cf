"""The tasks themselves: prompts, labels, official files."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from zolightning.errors import ConfigurationError
from zolightning.tasks import (
    CB,
    COPA,
    DROP,
    MNLI,
    MRPC,
    PIQA,
    QNLI,
    RTE,
    SIQA,
    SNLI,
    SST2,
    SST5,
    TREC,
    WSC,
    AQuA,
    BoolQ,
    CoLA,
    JsonlTask,
    MultiRC,
    ReCoRD,
    SampleReviews,
    SQuAD,
    Task,
    WiC,
    WinoGrande,
)
from zolightning.tasks.records import Record

HUB: dict[type[Task], tuple[str, str | None]] = {
    SST2: ("stanfordnlp/sst2", None),
    BoolQ: ("google/boolq", None),
    RTE: ("nyu-mll/glue", "rte"),
    CB: ("aps/super_glue", "cb"),
    WiC: ("aps/super_glue", "wic"),
    WSC: ("aps/super_glue", "wsc.fixed"),
    COPA: ("aps/super_glue", "copa"),
    WinoGrande: ("allenai/winogrande", "winogrande_m"),
    PIQA: ("baber/piqa", None),
    MultiRC: ("aps/super_glue", "multirc"),
    ReCoRD: ("aps/super_glue", "record"),
    SQuAD: ("rajpurkar/squad", None),
    DROP: ("ucinlp/drop", None),
    SIQA: ("lighteval/siqa", None),
    AQuA: ("deepmind/aqua_rat", "raw"),
    SST5: ("SetFit/sst5", None),
    SNLI: ("stanfordnlp/snli", None),
    MNLI: ("nyu-mll/glue", "mnli"),
    TREC: ("CogComp/trec", None),
    MRPC: ("nyu-mll/glue", "mrpc"),
    QNLI: ("nyu-mll/glue", "qnli"),
    CoLA: ("nyu-mll/glue", "cola"),
}
ROWS: dict[type[Task], list[dict[str, Any]]] = {
    SST2: [{"idx": 0, "sentence": "a fine film ", "label": 1}, {"idx": 1, "sentence": "dull", "label": 0}],
    BoolQ: [
        {"question": "is ice cold", "passage": "Ice is cold.", "answer": True},
        {"question": "is fire cold?", "passage": "Fire is hot.", "answer": False},
    ],
    RTE: [
        {"idx": 0, "sentence1": "It rains.", "sentence2": "It is dry.", "label": 1},
        {"idx": 1, "sentence1": "It rains.", "sentence2": "It is wet.", "label": 0},
    ],
    CB: [
        {"premise": "It rains.", "hypothesis": "it is wet", "label": 0},
        {"premise": "Does it rain?", "hypothesis": "it is wet", "label": 2},
    ],
    WiC: [
        {"word": "run", "sentence1": "Run rogue.", "sentence2": "She ran.", "label": 0},
        {"word": "ice", "sentence1": "Ice melts.", "sentence2": "Thin ice.", "label": 1},
    ],
    WSC: [
        {"text": "Mark told Pete. He lied.", "span1_text": "Mark", "span2_text": "He", "label": 1},
        {"text": "Mark told Pete. He lied.", "span1_text": "Pete", "span2_text": "He", "label": 0},
    ],
    COPA: [
        {
            "premise": "It rained.",
            "choice1": "I got wet.",
            "choice2": "The sun rose.",
            "question": "effect",
            "label": 0,
        },
        {
            "premise": "It was wet.",
            "choice1": "The sun rose.",
            "choice2": "It rained.",
            "question": "cause",
            "label": 1,
        },
    ],
    WinoGrande: [
        {"sentence": "Ian ate because _ was hungry.", "option1": "Ian", "option2": "Dennis", "answer": "1"},
        {"sentence": "_ slept, not Ian.", "option1": "Ian", "option2": "Dennis", "answer": "2"},
    ],
    PIQA: [
        {"goal": "Cool tea.", "sol1": "Add ice. ", "sol2": "Add fire.", "label": 0},
        {"goal": "dresser", "sol1": "a", "sol2": "b", "label": 1},
    ],
    MultiRC: [
        {
            "paragraph": "Ice is cold.",
            "question": "What is ice?",
            "answer": answer,
            "label": label,
            "idx": {"paragraph": 0, "question": label, "answer": label},
        }
        for label, answer in enumerate(("Hot", "Cold"))
    ],
    ReCoRD: [
        {
            "passage": "Ian ate.\n@highlight\nIan was hungry",
            "query": "@placeholder likes rice.",
            "entities": ["Ann", "Ian"],
            "answers": [name],
        }
        for name in ("Ian", "Ann")
    ],
    SQuAD: [
        {
            "title": "Super_Bowl",
            "context": "Ann won.",
            "question": f"Who won{mark}",
            "answers": {"text": ["Ann", "ann"], "answer_start": [0, 0]},
        }
        for mark in ("?", "? ")
    ],
    DROP: [
        {
            "passage": "Ann, 7, won.",
            "question": "How old?",
            "answers_spans": {"spans": ["7", "7"], "types": ["number"]},
        },
        {"passage": "Ann won.", "question": "Who?", "answers_spans": {"spans": ["Ann"], "types": ["span"]}},
    ],
    SIQA: [
        {"context": "Ian ate.", "question": "Why?", "answerA": "a", "answerB": "b ", "answerC": "c", "label": label}
        for label in ("2", "3")
    ],
    AQuA: [
        {"question": "1 + 1?", "options": ["A)1", "B)2", "C)3", "D)4", "E)5"], "rationale": "", "correct": right}
        for right in "BE"
    ],
    SST5: [{"text": "dull", "label": 1}, {"text": "fine ", "label": 4}],
    SNLI: [{"premise": "It rains.", "hypothesis": "It is wet.", "label": label} for label in (0, 2)],
    MNLI: [{"premise": "It rains.", "hypothesis": "It is wet.", "label": label} for label in (1, 2)],
    TREC: [{"text": "Who won ?", "coarse_label": label} for label in (3, 5)],
    MRPC: [{"sentence1": "It rains.", "sentence2": "Rain falls.", "label": label} for label in (1, 0)],
    QNLI: [{"question": "Who won?", "sentence": "Ann won.", "label": label} for label in (0, 1)],
    CoLA: [{"sentence": "He slept.", "label": 1}, {"sentence": "Him slept.", "label": 0}],
}
READ: dict[type[Task], list[tuple[str, str]]] = {
    SST2: [("a fine film It was", " great"), ("dull It was", " terrible")],
    BoolQ: [("Ice is cold. Is ice cold?\n", "Yes"), ("Fire is hot. Is fire cold?\n", "No")],
    RTE: [
        ('It rains.\nDoes this mean that "It is dry." is true? Yes or No?\n', "No"),
        ('It rains.\nDoes this mean that "It is wet." is true? Yes or No?\n', "Yes"),
    ],
    CB: [
        ('Suppose It rains. Can we infer that "it is wet"? Yes, No, or Maybe?\n', "Yes"),
        ('Suppose Does it rain? Can we infer that "it is wet"? Yes, No, or Maybe?\n', "Maybe"),
    ],
    WiC: [
        (
            'Does the word "run" have the same meaning in these two sentences? Yes, No?\nRun rogue.\nShe ran.\n',
            "No",
        ),
        (
            'Does the word "ice" have the same meaning in these two sentences? Yes, No?\nIce melts.\nThin ice.\n',
            "Yes",
        ),
    ],
    WSC: [
        (
            'Mark told Pete. He lied.\nIn the previous sentence, does the pronoun "he" refer to Mark? Yes or No?\n',
            "Yes",
        ),
        (
            'Mark told Pete. He lied.\nIn the previous sentence, does the pronoun "he" refer to Pete? Yes or No?\n',
            "No",
        ),
    ],
    COPA: [("It rained so", " I got wet."), ("It was wet because", " it rained.")],
    WinoGrande: [("Ian ate because", " Ian was hungry."), ("", "Dennis slept, not Ian.")],
    PIQA: [("Question: Cool tea.\nAnswer:", " Add ice."), ("Question: dresser\nAnswer:", " b")],
    MultiRC: [
        (
            f'Ice is cold.\nQuestion: What is ice?\nI found this answer "{answer}". Is that correct? Yes or No?\n',
            judged,
        )
        for answer, judged in (("Hot", "No"), ("Cold", "Yes"))
    ],
    ReCoRD: [("Ian ate.\n- Ian was hungry\n-", f" {name} likes rice.") for name in ("Ian", "Ann")],
    SQuAD: [("Title: Super Bowl\nContext: Ann won.\nQuestion: Who won?\nAnswer:", " Ann\n")] * 2,
    DROP: [
        ("Passage: Ann, 7, won.\nQuestion: How old?\nAnswer:", " 7\n"),
        ("Passage: Ann won.\nQuestion: Who?\nAnswer:", " Ann\n"),
    ],
    SIQA: [("Ian ate.\nQuestion: Why?\nAnswer:", f" {answer}") for answer in "bc"],
    SST5: [("dull It was", " bad"), ("fine It was", " great")],
    SNLI: [
        ('It rains.\nDoes this mean that "It is wet." is true? Yes, No, or Maybe?\n', word) for word in ("Yes", "No")
    ],
    MNLI: [
        ('It rains.\nDoes this mean that "It is wet." is true? Yes, No, or Maybe?\n', word) for word in ("Maybe", "No")
    ],
    TREC: [("Question: Who won ?\nType of the answer:", word) for word in (" human", " number")],
    MRPC: [
        ("It rains.\nRain falls.\nDo these two sentences mean the same? Yes or No?\n", word) for word in ("Yes", "No")
    ],
    QNLI: [('Ann won.\nDoes this answer the question "Who won?"? Yes or No?\n', word) for word in ("Yes", "No")],
    CoLA: [
        ("He slept.\nIs this sentence grammatical? Yes or No?\n", "Yes"),
        ("Him slept.\nIs this sentence grammatical? Yes or No?\n", "No"),
    ],
    AQuA: [("Question: 1 + 1?\nA) 1\nB) 2\nC) 3\nD) 4\nE) 5\nAnswer:", f" {letter}") for letter in "BE"],
}


PLAIN: dict[type[Task], str] = {
    SST2: "a fine film",
    BoolQ: "Ice is cold.\nis ice cold\n",
    RTE: "It rains.\nIt is dry.\n",
    CB: "It rains.\nit is wet\n",
    WiC: "run\nRun rogue.\nShe ran.\n",
    WSC: "Mark told Pete. He lied.\nMark\nHe\n",
    COPA: "It rained.",
    WinoGrande: "Ian ate because",
    PIQA: "Cool tea.",
    MultiRC: "Ice is cold.\nWhat is ice?\nHot\n",
    ReCoRD: "Ian ate.\n@highlight\nIan was hungry",
    SQuAD: "Ann won.\nWho won?",
    DROP: "Ann, 7, won.\nHow old?",
    SIQA: "Ian ate.\nWhy?",
    SST5: "dull",
    SNLI: "It rains.\nIt is wet.\n",
    MNLI: "It rains.\nIt is wet.\n",
    TREC: "Who won ?",
    MRPC: "It rains.\nRain falls.\n",
    QNLI: "Who won?\nAnn won.\n",
    CoLA: "He slept.\n",
    AQuA: "1 + 1?\nA)1\nB)2\nC)3\nD)4\nE)5",
}


def read(task: Task, record: Record) -> tuple[str, str]:
    return task.prompt(record.fields), task.option_texts(record.fields)[task.answer(record)]


@pytest.mark.parametrize("kind", HUB)
def test_from_the_hub(kind: type[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, name: str | None, *, split: str) -> datasets.Dataset:
        assert (path, name) == HUB[kind]
        return datasets.Dataset.from_list(ROWS[kind])

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = kind(num_train=1, num_dev=1)
    task.setup()
    records = sorted(task.splits.test, key=lambda record: record.origin)
    assert [read(task, record) for record in records] == READ[kind]


@pytest.mark.parametrize("kind", PLAIN)
def test_without_a_word_of_ours(kind: type[Task]) -> None:
    task = kind(prompt="plain")
    assert kind.source is not None
    row = {kind.source.rename.get(name, name): value for name, value in ROWS[kind][0].items()}
    (record,) = task.checked([Record(row, "row:1")])
    question = task.question(record)
    assert question.prompt == PLAIN[kind]
    aligned = kind().question(record)
    assert (question.options, question.answer) == (aligned.options, aligned.answer)


@pytest.mark.parametrize(
    ("kind", "folder", "counts"),
    [
        (MultiRC, "MultiRC", (1000, 500, 1000)),
        (SST2, "SST-2", (1000, 500, 872)),
        (RTE, "RTE", (1000, 500, 277)),
        (BoolQ, "BoolQ", (1000, 500, 1000)),
        (CB, "CB", (150, 100, 56)),
        (WiC, "WiC", (1000, 500, 638)),
        (WSC, "WSC", (454, 100, 104)),
        (COPA, "COPA", (300, 100, 100)),
        (WinoGrande, "WinoGrande", (1000, 500, 1000)),
        (PIQA, "PIQA", (1000, 500, 338)),
    ],
)
def test_the_official_files(
    kind: type[Task], folder: str, counts: tuple[int, int, int], shared_data: Path, stories: Path
) -> None:
    task = kind(data_dir=str(shared_data / folder))
    task.setup()
    splits = task.splits
    assert (len(splits.train), len(splits.dev), len(splits.test)) == counts
    task.connect(AutoTokenizer.from_pretrained(stories), 512, seed=0)
    model = AutoModelForCausalLM.from_pretrained(stories)
    first = next(iter(task.train_dataloader()))
    # One-token options share their prompt's sequence, and of an `lm` objective there is the right option alone.
    assert first.input_ids.size(0) == 16
    with torch.no_grad():
        loss = task.loss(model, first)
    assert 0.1 < loss.item() < 8


def test_zero_shot_accuracy_on_real_data(shared_data: Path, stories: Path) -> None:
    task = SST2(data_dir=str(shared_data / "SST-2"), options=[" bad", " good"], eval_batch_size=128)
    task.connect(AutoTokenizer.from_pretrained(stories), 512, seed=0)
    model = AutoModelForCausalLM.from_pretrained(stories)
    metrics = task.metrics()
    with torch.no_grad():
        for batch in task.test_dataloader():
            metrics.update(task.scores(model, batch).argmax(-1), batch.answers)
    assert metrics.compute()["accuracy"].item() == pytest.approx(0.60, abs=0.01)


def own(folder: Path, **arguments: Any) -> JsonlTask:
    defaults: dict[str, Any] = {
        "train": "mine.jsonl",
        "prompt": "{review} {{all}} in {place} it was",
        "label": "mood",
        "options": {"Down": " bad", "up": " good"},
        "data_dir": str(folder),
        "num_train": 4,
        "num_dev": 2,
        "num_test": 2,
    }
    return JsonlTask(**(defaults | arguments))


def write(path: Path, number: int, **fields: object) -> None:
    rows = [{"review": f"r{i}", "place": "all", "mood": ("down", "UP")[i % 2]} | fields for i in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_users_own_file(tmp_path: Path, words: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "mine.jsonl", 9)
    task = own(tmp_path)
    task.prepare_data()
    task.setup()
    splits = task.splits
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (4, 2, 2)
    record = Record({"review": "r1", "place": "all", "mood": "UP"}, "mine.jsonl:2")
    assert read(task, record) == ("r1 {all} in all it was", " good")
    task.connect(words, 64, seed=0)
    assert len(task.train_dataloader()) == 1


def test_the_users_own_files(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", 6)
    (tmp_path / "more.csv").write_text("review,place,mood\nx,y,up\n")
    task = own(tmp_path / "elsewhere", train=str(tmp_path / "mine.jsonl"), validation=str(tmp_path / "more.csv"))
    task.setup()
    assert [record.origin for record in task.splits.test] == ["more.csv:2"]
    assert task.place() == f"{tmp_path / 'mine.jsonl'} and {tmp_path / 'more.csv'}"


def test_a_field_of_the_prompt_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", 9, place=None)
    with pytest.raises(ConfigurationError, match=r"mine\.jsonl:1: there is no field 'place'; found review, mood"):
        own(tmp_path).setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "it was"}, "has no field of the records in braces"),
        ({"prompt": "{review it was"}, "is no template .*; write a brace that is meant as such twice"),
        ({"prompt": "{} it was"}, r"braces must hold a field's name, got \{\}"),
        ({"prompt": "{review.x} it was"}, r"braces must hold a field's name, got \{review\.x\}"),
        ({"options": {"up": " good"}}, "at least two labels"),
        ({"options": {"up": " good", "UP": " bad"}}, "differ in case only: up, UP"),
    ],
)
def test_bad_descriptions(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        own(tmp_path, **arguments)


def test_the_embedded_sample() -> None:
    task = SampleReviews()
    task.setup()
    splits = task.splits
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (1000, 500, 600)
    assert task.place() == "the embedded sample"
    assert read(task, Record({"review": "So so:", "sentiment": "negative"}, "")) == ("So so: all in all it was", " bad")


def test_other_reviews_of_the_samples_kind(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        rows = [{"review": f"{name} {i}", "sentiment": ("negative", "positive")[i % 2]} for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = SampleReviews(data_dir=str(tmp_path), num_train=3, num_dev=2)
    task.prepare_data()
    task.setup()
    splits = task.splits
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (3, 2, 3)
    assert task.place() == str(tmp_path)
    assert {record.origin.split(":")[0] for record in splits.dev} == {"dev.jsonl"}


@pytest.mark.parametrize("kind", [*HUB, JsonlTask, SampleReviews])
def test_every_argument_is_documented(kind: type[Task]) -> None:
    documented = next(base.__doc__ for base in kind.__mro__ if "__init__" in vars(base)) or ""
    for name in inspect.signature(kind).parameters:
        assert f"        {name}: " in documented, name
