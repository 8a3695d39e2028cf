"""Where the prompt ends and the option begins, for tokenizers of every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizerFast

from zolightning.errors import ConfigurationError
from zolightning.models.question import Example, Question
from zolightning.tasks.encoding import encode

Maker = Callable[..., PreTrainedTokenizerFast]


def one(tokenizer: PreTrainedTokenizerFast, prompt: str, *options: str, max_length: int = 64) -> Example:
    return encode([Question(prompt, options, 0, "file:1")], tokenizer, max_length)[0]


def names(tokenizer: PreTrainedTokenizerFast, example: Example) -> tuple[str, list[str], list[int]]:
    """The prompt's and each continuation's tokens, with bars between them."""

    def joined(ids: list[int]) -> str:
        return "|".join(tokenizer.convert_ids_to_tokens(ids))

    return joined(example.prompt), [joined(ids) for ids in example.continuations], example.starts


def test_word_piece(word_piece_maker: Maker) -> None:
    tokenizer = word_piece_maker(extra=("it", "was", "good", "bad"))
    assert names(tokenizer, one(tokenizer, "It was", " good", " bad")) == ("<s>|it|was", ["good", "bad"], [0, 0])
    # Without a space the option's letters continue the prompt's last word.
    joined = one(tokenizer, "It was", "n", "t")
    assert names(tokenizer, joined) == ("<s>|it|was", ["##n", "##t"], [0, 0])


@pytest.mark.parametrize("trim", [True, False])
def test_byte_bpe_with_the_space_in_the_option(byte_bpe_maker: Maker, trim: bool) -> None:
    tokenizer = byte_bpe_maker([("Ġ", "a"), ("Ġa", "b")], trim=trim)
    assert names(tokenizer, one(tokenizer, "cc", " ab", " d")) == ("c|c", ["Ġab", "Ġ|d"], [0, 0])


@pytest.mark.parametrize("trim", [True, False])
def test_a_space_that_ends_the_prompt_is_the_prompts(byte_bpe_maker: Maker, trim: bool) -> None:
    tokenizer = byte_bpe_maker([], trim=trim)
    assert names(tokenizer, one(tokenizer, "c ", "a", "b")) == ("c|Ġ", ["a", "b"], [0, 0])


def test_a_token_over_the_boundary_is_the_options(byte_bpe_maker: Maker) -> None:
    tokenizer = byte_bpe_maker([("x", "a")])
    # With "a" the prompt's x is part of the option's token, with "b" it stands alone and is not scored.
    assert names(tokenizer, one(tokenizer, "wx", "a", "b")) == ("w", ["xa", "x|b"], [0, 1])


def test_a_merge_before_the_boundary_shortens_the_shared_prompt(byte_bpe_maker: Maker) -> None:
    tokenizer = byte_bpe_maker([("y", "a"), ("x", "y"), ("x", "ya")])
    example = one(tokenizer, "wxy", "a", "b", "ab")
    assert names(tokenizer, example) == ("w", ["xya", "xy|b", "xya|b"], [0, 1, 0])


def test_characters_of_several_bytes(byte_bpe_maker: Maker) -> None:
    tokenizer = byte_bpe_maker([])
    example = one(tokenizer, "né", "é", "ü")
    assert tokenizer.decode(example.prompt) == "né"
    # The options share their first byte, which is scored all the same.
    assert [len(ids) for ids in example.continuations] == [2, 2]
    assert example.starts == [0, 0]


def test_metaspace(metaspace_maker: Maker) -> None:
    tokenizer = metaspace_maker(("▁it", "▁was", "▁good", "▁bad", "yes"))
    example = one(tokenizer, "it was", " good", " bad")
    assert names(tokenizer, example) == ("<s>|▁it|▁was", ["▁good", "▁bad"], [0, 0])
    newline = one(tokenizer, "it?\n", "yes", "no")
    assert names(tokenizer, newline) == ("<s>|▁it|?|<0x0A>", ["yes", "n|o"], [0, 0])


def test_an_empty_prompt_after_bos(metaspace_maker: Maker) -> None:
    tokenizer = metaspace_maker(("▁good",))
    assert names(tokenizer, one(tokenizer, "", "good", "b")) == ("<s>", ["▁good", "▁|b"], [0, 0])


def test_trailing_special_tokens_are_dropped(word_piece_maker: Maker) -> None:
    with_eos, without = (word_piece_maker(eos=eos, extra=("ab",)) for eos in (True, False))
    assert one(with_eos, "ab", " a", " b") == one(without, "ab", " a", " b")


def test_a_long_prompt_loses_its_left_end_but_not_bos(words: PreTrainedTokenizerFast) -> None:
    example = one(words, "a b c d e", " x", " y z", max_length=5)
    assert names(words, example) == ("<s>|d|e", ["x", "y|z"], [0, 0])
    assert example.cut
    whole = one(words, "a b c d e", " x", " y z", max_length=8)
    assert len(whole.prompt) == 6
    assert not whole.cut
    assert whole.length == 8


def test_a_long_prompt_without_bos(word_piece_maker: Maker) -> None:
    tokenizer = word_piece_maker(bos=False)
    assert names(tokenizer, one(tokenizer, "a b c d", " x", " y", max_length=3)) == ("c|d", ["x", "y"], [0, 0])


def test_many_questions_keep_their_order_and_options(words: PreTrainedTokenizerFast) -> None:
    questions = [Question("a b", (" x", " y"), 1, "f:1"), Question("c", (" x", " y", " z"), 2, "f:2")]
    first, second = encode(questions, words, 64)
    assert names(words, first)[:2] == ("<s>|a|b", ["x", "y"])
    assert names(words, second)[:2] == ("<s>|c", ["x", "y", "z"])
    assert (first.answer, second.answer) == (1, 2)
    assert encode([], words, 64) == []


@pytest.mark.parametrize(
    ("options", "max_length", "message"),
    [
        ((" ", " x"), 64, r"file:1: the option ' ' has no token of its own"),
        (("", " x"), 64, r"file:1: the option '' has no token of its own"),
        ((" Yes", " yes"), 64, r"file:1: the options ' Yes' and ' yes' are the same tokens"),
        ((" x", " x"), 64, r"file:1: the options ' x' and ' x' are the same tokens"),
        ((" é", " ü"), 64, r"file:1: the options ' é' and ' ü' are the same tokens"),
        ((" x", " a b c"), 4, r"file:1: an answer may take 3 of 4 tokens, which leaves no room for the prompt"),
    ],
)
def test_bad_options(words: PreTrainedTokenizerFast, options: tuple[str, ...], max_length: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        one(words, "a b", *options, max_length=max_length)


def test_a_prompt_is_cut_for_the_longest_answer_that_may_be_written(words: PreTrainedTokenizerFast) -> None:
    asked = Question("a b c d", (" x",), 0, "f:1", reserved=2)
    (short,) = encode([asked], words, 5)
    (long,) = encode([replace(asked, options=(" x y",))], words, 5)
    (longer,) = encode([replace(asked, options=(" x y z",))], words, 5)
    assert [names(words, example)[0] for example in (short, long, longer)] == ["<s>|c|d", "<s>|c|d", "<s>|d"]
    with pytest.raises(ConfigurationError, match="f:1: an answer may take 4 of 5 tokens"):
        encode([replace(asked, reserved=4)], words, 5)


def test_nothing_to_condition_on(word_piece_maker: Maker, byte_bpe_maker: Maker) -> None:
    with pytest.raises(ConfigurationError, match=r"file:1: no token stands before the option ' x'"):
        one(word_piece_maker(bos=False), "", " x", " y")
    with pytest.raises(ConfigurationError, match=r"no token stands before the option 'a'"):
        one(byte_bpe_maker([("x", "a")]), "x", "a", "b")


def test_a_slow_tokenizer_is_refused() -> None:
    slow = cast("Any", SimpleNamespace(is_fast=False))
    with pytest.raises(ConfigurationError, match="load a fast tokenizer"):
        encode([Question("a", ("b", "c"), 0, "file:1")], slow, 64)
