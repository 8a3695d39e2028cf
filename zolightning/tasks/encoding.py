"""From prompts and options to tokens: where the prompt ends and the option begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from zolightning.errors import ConfigurationError
from zolightning.models.question import Example, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _Tokens(NamedTuple):
    """A prompt with one option, tokenised together; the first ``boundary`` tokens are the prompt's."""

    ids: list[int]
    boundary: int
    specials: int


def encode(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Example]:
    """Tokenise prompts with their options; a prompt that is too long loses its left end, but not its BOS token.

    A prompt and an option are tokenised together, as the model would meet them, because tokens may merge across the
    boundary; a token that holds characters of both counts as the option's. No EOS token is appended.

    Args:
        questions: What to tokenise.
        tokenizer: A fast tokenizer: the others do not say which characters a token stands for.
        max_length: The most tokens that a prompt with its longest option, or with what is reserved, may have.

    Raises:
        ConfigurationError: If the tokenizer is not fast, an option has no token of its own, two options tokenise alike,
            or there is no room for a prompt.
    """
    check_fast(tokenizer)
    if not questions:
        return []
    tokens = _tokenize(questions, tokenizer)
    return [_example(question, [next(tokens) for _ in question.options], max_length) for question in questions]


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that does not say which characters its tokens stand for.

    Raises:
        ConfigurationError: If the tokenizer is not fast.
    """
    if not tokenizer.is_fast:
        raise ConfigurationError(
            f"{type(tokenizer).__name__} does not say which characters its tokens stand for: load a fast tokenizer "
            f"(a tokenizer.json)"
        )


def _tokenize(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase) -> Iterator[_Tokens]:
    """Yield every prompt with every option of its, in order."""
    encoded = tokenizer(
        [question.prompt + option for question in questions for option in question.options],
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        # The tokenizer would warn of its own length limit; ours is applied when every option's length is known.
        verbose=False,
    )
    owners = [question for question in questions for _ in question.options]
    columns = zip(owners, encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True)
    for question, ids, offsets, special in columns:
        end = len(ids)
        while end and special[end - 1]:
            end -= 1
        leading = next((index for index in range(end) if not special[index]), end)
        # By the token's last character: a tokenizer may leave a leading space out of the span.
        own = (index for index in range(leading, end) if offsets[index][1] > len(question.prompt))
        yield _Tokens(ids[:end], next(own, end), leading)


def _example(question: Question, options: list[_Tokens], max_length: int) -> Example:
    _check_options(question, options)
    shared = _shared_prefix(options)
    first = options[0]
    prompt, continuations = first.ids[:shared], [option.ids[shared:] for option in options]
    starts = [option.boundary - shared for option in options]
    if not prompt and 0 in starts:
        raise ConfigurationError(
            f"{question.origin}: no token stands before the option {question.options[starts.index(0)]!r}: the prompt "
            f"{question.prompt!r} has none of its own and the tokenizer adds no BOS token"
        )
    specials = min(first.specials, shared)
    taken = max(question.reserved, *map(len, continuations))
    room = max_length - taken
    if room <= specials:
        raise ConfigurationError(
            f"{question.origin}: an answer may take {taken:,} of {max_length:,} tokens, which leaves no room for the "
            f"prompt: raise max_length, if the model has the positions, or shorten the answers (options, or "
            f"max_new_tokens where they are written)"
        )
    cut = len(prompt) > room
    if cut:
        prompt = prompt[:specials] + prompt[len(prompt) - (room - specials) :]
    return Example(prompt, continuations, starts, question.answer, cut)


def _check_options(question: Question, options: list[_Tokens]) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for text, option in zip(question.options, options, strict=True):
        if option.boundary == len(option.ids):
            raise ConfigurationError(f"{question.origin}: the option {text!r} has no token of its own after the prompt")
        if (alike := seen.get(tuple(option.ids))) is not None:
            raise ConfigurationError(
                f"{question.origin}: the options {alike!r} and {text!r} are the same tokens "
                f"{option.ids[option.boundary :]}: choose options that the tokenizer tells apart"
            )
        seen[tuple(option.ids)] = text


def _shared_prefix(options: list[_Tokens]) -> int:
    """The tokens that all sequences begin with and that are no option's."""
    limit = min(option.boundary for option in options)
    for index in range(limit):
        if len({option.ids[index] for option in options}) > 1:
            return index
    return limit
