"""Reading records, and what is said of files that cannot be read."""

from __future__ import annotations

import gzip
from pathlib import Path

import datasets
import pytest

from zolightning.errors import ConfigurationError
from zolightning.tasks.records import Record, read_file, read_hub


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_jsonl(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"x": 1, "y": true}\n\n{"x": "two\u2028lines", "y": null}\n')
    assert read_file(path) == [
        Record({"x": 1, "y": True}, "a.jsonl:1"),
        Record({"x": "two\u2028lines", "y": None}, "a.jsonl:3"),
    ]


def test_json_is_one_record_or_one_a_line(tmp_path: Path) -> None:
    assert read_file(written(tmp_path, "a.json", '{\n"x": [1]\n}')) == [Record({"x": [1]}, "a.json")]
    assert read_file(written(tmp_path, "b.json", '{"x": 1}\n{"x": 2}\n')) == [
        Record({"x": 1}, "b.json:1"),
        Record({"x": 2}, "b.json:2"),
    ]


def test_a_compressed_file(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl.gz", gzip.compress(b'{"x": 1}\n'))
    assert read_file(path) == [Record({"x": 1}, "a.jsonl.gz:1")]


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", '\ufeffsentence\tlabel\r\n"so\x85 it goes\t1\r\nend " \t0')
    assert read_file(path) == [
        Record({"sentence": '"so\x85 it goes', "label": "1"}, "a.tsv:2"),
        Record({"sentence": 'end " ', "label": "0"}, "a.tsv:3"),
    ]


def test_csv_has_quoting(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'text,label\n"a, ""b""\nc",0\nd,1\n')
    assert read_file(path) == [
        Record({"text": 'a, "b"\nc', "label": "0"}, "a.csv:3"),
        Record({"text": "d", "label": "1"}, "a.csv:4"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", r"a\.jsonl: holds no records"),
        ("a.tsv", "sentence\tlabel\n", r"a\.tsv: holds no records"),
        ("a.csv", "", r"a\.csv: holds no records"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl:2: is not JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"a\.jsonl:2: expected a JSON object, got list"),
        ("a.tsv", "a\tb\n1\t2\n1\t2\t3\n", r"a\.tsv:3: has 3 columns, the header has 2: a, b"),
        ("a.csv", "a,b\n1\n", r"a\.csv:2: has 1 columns, the header has 2: a, b"),
        ("a.csv", 'a,b\n1,"2', r"a\.csv:2: is not CSV"),
        ("a.tsv", "a\ta\n1\t2\n", r"a\.tsv:1: the header names a column twice: a, a"),
        ("a.jsonl", b'{"a": "\xff"}\n', r"a\.jsonl: is not UTF-8"),
        ("a.json", "[1]", r"a\.json: expected a JSON object, or one a line, got list"),
        ("a.txt", "{}", r"a\.txt: cannot read '\.txt' files; allowed are \.jsonl, \.json, \.tsv, \.csv"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_file(written(tmp_path, name, text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"b\.jsonl: there is no such file \(looked in "):
        read_file(tmp_path / "b.jsonl")


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load(path: str, name: str | None, *, split: str) -> datasets.Dataset:
        calls.append((path, name, split))
        return datasets.Dataset.from_list([{"a": "x", "label": 0}, {"a": "y", "label": 1}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_hub("org/set", "part", "train")[1] == Record({"a": "y", "label": 1}, "org/set/part[train]:2")
    assert read_hub("org/set", None, "test")[0] == Record({"a": "x", "label": 0}, "org/set[test]:1")
    assert calls == [("org/set", "part", "train"), ("org/set", None, "test")]


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConfigurationError, match=r"cannot load org/set\[train\] .*no route.* set data_dir to a folder"):
        read_hub("org/set", None, "train")
