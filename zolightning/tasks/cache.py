"""Tokenised examples on disk, so that the next run with the same texts and tokenizer need not tokenise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from zolightning.errors import ConfigurationError
from zolightning.models.question import Example, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Part of every key: raise it when the same texts come to be encoded otherwise.
_VERSION = 3


def cache_key(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int, cloze: bool = False
) -> str:
    """A digest of everything that the encoded examples depend on."""
    digest = hashlib.sha256(f"{_VERSION}:{max_length}:{cloze}:".encode())
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    # Left behind by the tokenizer's last call, and set anew by the next.
    definition["truncation"] = definition["padding"] = None
    digest.update(json.dumps(definition, sort_keys=True).encode())
    for question in questions:
        digest.update(json.dumps([question.prompt, question.options, question.answer, question.reserved]).encode())
    return digest.hexdigest()


def cached(key: str, make: Callable[[], list[Example]]) -> list[Example]:
    """Return the examples kept under a key in the cache of Hugging Face datasets, or make and keep them.

    The library writes under a lock and renames what is whole, so several processes may do so at once.

    Raises:
        ConfigurationError: If `make` raises it, or the cache cannot be written or read back.
    """
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        for example in make():
            row = asdict(example)
            # Texts and records are at hand; only tokens are worth keeping.
            del row["question"], row["null"]
            yield row

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return [Example(**row) for row in datasets.Dataset.from_generator(rows, fingerprint=key)]
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, ConfigurationError):
            raise error.__cause__ from None
        raise
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"tokenised examples cannot be kept in {datasets.config.HF_DATASETS_CACHE} ({error}): remove its folder "
            "generator, or set HF_HOME to a folder that can be written"
        ) from error
    finally:
        if not hidden:
            datasets.enable_progress_bars()
