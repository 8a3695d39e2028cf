"""Small tokenizers."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """Whole words and punctuation; every character has a token of its own too."""
    return word_piece()


def word_piece(bos: bool = True, eos: bool = False, extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Lower-case WordPiece: spaces are no tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789?.,'\""
    entries = ["[UNK]", "<s>", "</s>", *extra, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _wrapped(tokenizer, bos, eos, vocabulary)


def byte_bpe(merges: list[tuple[str, str]], bos: bool = False, trim: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE like GPT-2's; without a pre-tokenizer's split, so that merges may run over any boundary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = ["<s>", "</s>", *alphabet, *(left + right for left, right in merges)]
    vocabulary = {token: number for number, token in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    byte_level = processors.ByteLevel(trim_offsets=trim)
    if bos:
        template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
        tokenizer.post_processor = processors.Sequence([byte_level, template])
    else:
        tokenizer.post_processor = byte_level
    return _fast(tokenizer)


def metaspace(pieces: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Llama-like: a mark for each space and one in front of the text, unknown characters as bytes."""
    letters = "▁abcdefghijklmnopqrstuvwxyz?."
    entries = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges: list[tuple[str, str]] = []
    for piece in pieces:
        for end in range(2, len(piece) + 1):
            merge = (piece[: end - 1], piece[end - 1])
            if merge not in merges:
                merges.append(merge)
                entries.append(piece[:end])
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _wrapped(tokenizer, bos=True, eos=False, vocabulary=vocabulary)


def _wrapped(tokenizer: Tokenizer, bos: bool, eos: bool, vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    template = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
    specials = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    return _fast(tokenizer)


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    wrapped: PreTrainedTokenizerFast = cast("Any", PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
    return wrapped


@pytest.fixture
def word_piece_maker() -> object:
    return word_piece


@pytest.fixture
def byte_bpe_maker() -> object:
    return byte_bpe


@pytest.fixture
def metaspace_maker() -> object:
    return metaspace
