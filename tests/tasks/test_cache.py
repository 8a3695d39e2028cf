"""Tokenised examples on disk: found again, never half a file, and what is said where they cannot be kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from zolightning.errors import ConfigurationError
from zolightning.models.question import Example, Question
from zolightning.tasks.cache import cache_key, cached

EXAMPLES = [Example([1, 2], [[3], [4, 5]], [0, 1], 1, True), Example([7], [[3]], [0], 0, False)]
QUESTIONS = [Question("a b", (" x", " y"), 0, "file:1")]


def make() -> list[Example]:
    return EXAMPLES


def never() -> list[Example]:
    raise AssertionError("made anew")


def test_made_once() -> None:
    assert cached("key", make) == EXAMPLES
    assert cached("key", never) == EXAMPLES
    assert cached("other", lambda: EXAMPLES[:1]) == EXAMPLES[:1]


def test_the_cache_is_that_of_hugging_face_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "elsewhere")
    cached("key", make)
    (file,) = (tmp_path / "elsewhere").rglob("*.arrow")
    assert "key" in str(file)


def test_at_once() -> None:
    results: list[list[Example]] = []
    threads = [threading.Thread(target=lambda: results.append(cached("key", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [EXAMPLES] * 8


def test_an_error_of_the_data_comes_through_and_leaves_nothing_behind() -> None:
    def refuse() -> list[Example]:
        raise ConfigurationError("file:1: the option ' ' has no token of its own")

    with pytest.raises(ConfigurationError, match=r"^file:1: the option ' ' has no token of its own$"):
        cached("key", refuse)
    assert cached("key", make) == EXAMPLES


def test_an_error_of_the_code_is_no_error_of_the_user() -> None:
    with pytest.raises(datasets.exceptions.DatasetGenerationError) as raised:
        cached("key", never)
    assert isinstance(raised.value.__cause__, AssertionError)


@pytest.mark.parametrize("size", [0, -9])
def test_a_damaged_file_is_named_with_what_to_do(size: int, tmp_path: Path) -> None:
    cached("key", make)
    (file,) = tmp_path.rglob("*.arrow")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ConfigurationError, match=r"huggingface/datasets \(.*\): remove its folder generator"):
        cached("key", never)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    with pytest.raises(ConfigurationError, match=r"cannot be kept in .*/file \(.*set HF_HOME to a folder"):
        cached("key", make)


@pytest.mark.parametrize("set_them", [datasets.disable_progress_bars, datasets.enable_progress_bars])
def test_progress_bars_are_left_as_they_were(set_them: Callable[[], None]) -> None:
    set_them()
    hidden = datasets.are_progress_bars_disabled()
    cached("key", make)
    assert datasets.are_progress_bars_disabled() == hidden


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
