"""From texts with a blank to tokens: for masked language models, which fill it with a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zolightning.errors import ConfigurationError
from zolightning.models.question import Example, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands for the tokenizer's mask token in a task's texts.
MASK = "<mask>"


def encode_cloze(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Example]:
    """Tokenise texts whose blank is to be filled with one of the options, which are a token each.

    A text that is too long loses tokens at the end that is farther from the blank, but not the special ones.

    Args:
        questions: What to tokenise; each prompt holds ``MASK`` once.
        tokenizer: A masked language model's.
        max_length: The most tokens that a text may have.

    Raises:
        ConfigurationError: If the tokenizer has no mask token, an option is not one token, two options are the same, or
            there is no room.
    """
    if tokenizer.mask_token is None:
        raise ConfigurationError(f"{type(tokenizer).__name__} has no mask token: it is not a masked language model's")
    words = {option: _word(option, tokenizer) for question in questions for option in question.options}
    if not questions:
        return []
    encoded = tokenizer(
        [_with_mask(question, str(tokenizer.mask_token)) for question in questions],
        return_special_tokens_mask=True,
        return_attention_mask=False,
        # The tokenizer would warn of its own length limit; ours is applied below.
        verbose=False,
    )
    mask = tokenizer.mask_token_id
    rows = zip(questions, encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    return [_example(question, ids, special, ids.index(mask), words, max_length) for question, ids, special in rows]


def _with_mask(question: Question, mask: str) -> str:
    if question.prompt.count(MASK) != 1:
        raise ConfigurationError(f"{question.origin}: there must be one {MASK} in the text, got {question.prompt!r}")
    return question.prompt.replace(MASK, mask)


def _example(
    question: Question, ids: list[int], special: list[int], blank: int, words: dict[str, int], max_length: int
) -> Example:
    options = [words[option] for option in question.options]
    if len(set(options)) < len(options):
        raise ConfigurationError(f"{question.origin}: two of the options {question.options} are the same token")
    # Between the special tokens at both ends; the blank is a special token too.
    text = [place for place, no_text in enumerate(special) if not no_text or place == blank]
    before, behind = blank - text[0], text[-1] - blank
    excess = max(0, len(ids) - max_length)
    if excess > before + behind:
        raise ConfigurationError(f"{question.origin}: {max_length:,} tokens leave no room for text: raise max_length")
    left = min(excess, before) if before >= behind else max(0, excess - behind)
    end = text[-1] + 1
    tokens = ids[: text[0]] + ids[text[0] + left : end - (excess - left)] + ids[end:]
    continuations = [[word] for word in options]
    return Example(tokens, continuations, [0] * len(options), question.answer, excess > 0, mask=blank - left)


def _word(option: str, tokenizer: PreTrainedTokenizerBase) -> int:
    ids = tokenizer(option, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ConfigurationError(
            f"the option {option!r} is not one token but {tokenizer.convert_ids_to_tokens(ids)}: a masked language "
            "model fills a blank with one; set data.options to other words"
        )
    return int(ids[0])
