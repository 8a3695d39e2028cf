"""Tokenised examples on disk: found again, made anew when damaged, never in the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from zolightning.models.batch import Example
from zolightning.tasks.cache import cache_folder, cache_key, cached
from zolightning.tasks.encoding import Question

EXAMPLES = [Example([1, 2], [[3], [4, 5]], [0, 1], 1, True), Example([7], [[3]], [0], 0, False)]
QUESTIONS = [Question("a b", (" x", " y"), 0, "file:1")]


def make() -> list[Example]:
    return EXAMPLES


def never() -> list[Example]:
    raise AssertionError("made anew")


def test_made_once() -> None:
    assert cached("key", make) == EXAMPLES
    assert cached("key", never) == EXAMPLES
    assert [path.name for path in cache_folder().iterdir()] == ["key.json.gz"]


@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[:-9], lambda old: old[:40] + b"?" + old[41:]])
def test_a_damaged_file_is_made_anew(damage: Callable[[bytes], bytes]) -> None:
    cached("key", make)
    path = cache_folder() / "key.json.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert cached("key", make) == EXAMPLES
    assert cached("key", never) == EXAMPLES


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="tokenised examples are not cached"):
        assert cached("key", make) == EXAMPLES


def test_at_once() -> None:
    results: list[list[Example]] = []
    threads = [threading.Thread(target=lambda: results.append(cached("key", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [EXAMPLES] * 8
    assert len(list(cache_folder().iterdir())) == 1


def test_where_hugging_face_datasets_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "huggingface" / "datasets" / "zolightning"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "zolightning"
    monkeypatch.delenv("HF_DATASETS_CACHE")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "huggingface" / "datasets" / "zolightning"


def test_the_key_depends_on_all_that_the_examples_do(
    words: PreTrainedTokenizerFast, word_piece_maker: Callable[..., PreTrainedTokenizerFast]
) -> None:
    key = cache_key(QUESTIONS, words, 64)
    others = [
        cache_key([Question("a c", (" x", " y"), 0, "file:1")], words, 64),
        cache_key([Question("a b", (" x", " z"), 0, "file:1")], words, 64),
        cache_key([Question("a b", (" x", " y"), 1, "file:1")], words, 64),
        cache_key(QUESTIONS, words, 65),
        cache_key(QUESTIONS, word_piece_maker(bos=False), 64),
    ]
    assert len({key, *others}) == 6
    # A call leaves its settings behind in the tokenizer.
    words("a b c", truncation=True, max_length=2)
    assert cache_key(QUESTIONS, words, 64) == key
    assert cache_key([Question("a b", (" x", " y"), 0, "moved:7")], words, 64) == key
