"""Tokenizers of masked language models, made here: as RoBERTa's, and as BERT's."""

from __future__ import annotations

from typing import Any, cast

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("great", "terrible", "it", "was", "dull")


def byte_bpe() -> PreTrainedTokenizerFast:
    """As RoBERTa's: spaces belong to words, the mask takes the space before it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", *alphabet]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        known = "\u0120"
        for letter in word:
            merges.append((known, letter))
            known += letter
            tokens.append(known)
    model = models.BPE(vocab={token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges=merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return _wrapped(tokenizer, "<s>", "</s>", "<mask>")


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT's: words are split at spaces and marks."""
    tokens = [
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "[UNK]",
        "[MASK]",
        *WORDS,
        *LETTERS,
        *(f"##{x}" for x in LETTERS),
        ".",
        "?",
        ",",
        ":",
    ]
    tokenizer = Tokenizer(models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    return _wrapped(tokenizer, "[CLS]", "[SEP]", "[MASK]")


def _wrapped(tokenizer: Tokenizer, begin: str, end: str, mask: str) -> PreTrainedTokenizerFast:
    wrapped: PreTrainedTokenizerFast = cast("Any", PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer,
        cls_token=begin,
        sep_token=end,
        unk_token="<unk>" if mask == "<mask>" else "[UNK]",
        pad_token="<pad>" if mask == "<mask>" else "[PAD]",
        mask_token=AddedToken(mask, lstrip=True, special=True),
        model_max_length=32,
    )
    return wrapped
