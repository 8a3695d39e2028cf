"""What a backbone's configuration tells, and where its tokenizer's texts begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from tests.helpers.families import masked
from tests.helpers.tokenizers import byte_bpe
from zolightning.errors import ConfigurationError
from zolightning.models.loading import load_tokenizer, max_positions


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("llama", {"max_position_embeddings": 77}, 77),
        ("gpt2", {"n_positions": 77}, 77),
        ("bloom", {}, None),
        ("bert", {"max_position_embeddings": 77}, 77),
        ("roberta", {"max_position_embeddings": 77, "pad_token_id": 1, "architectures": ["RobertaForMaskedLM"]}, 75),
    ],
)
def test_the_most_tokens_that_a_model_reads(family: str, settings: dict[str, Any], expected: int | None) -> None:
    assert max_positions(AutoConfig.for_model(family, **settings)) == expected


def test_another_beginning_of_texts(tmp_path: Path) -> None:
    own = load_tokenizer("sample")
    other = load_tokenizer("sample", bos=str(own.eos_token))
    text = "the story was good"
    begun = own(text)["input_ids"]
    assert other(text)["input_ids"] == [own.eos_token_id, *begun[len(begun) - len(text.split()) :]]
    assert other(text, return_special_tokens_mask=True)["special_tokens_mask"][0] == 1
    other.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text)["input_ids"] == other(text)["input_ids"]
    with pytest.raises(ConfigurationError, match=r"has no token '<bos>': name one of its vocabulary"):
        load_tokenizer("sample", bos="<bos>")


def test_a_masked_model_s_texts_begin_as_they_do(tmp_path: Path) -> None:
    byte_bpe().save_pretrained(tmp_path)
    cast("Any", masked("roberta", torch.float32, vocab_size=300)).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="begin with <s>: set it to null"):
        load_tokenizer(str(tmp_path), bos="</s>")
