"""Tokenised examples on disk, so that the next run with the same texts and tokenizer need not tokenise."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_warn

from zolightning.models.batch import Example
from zolightning.tasks.encoding import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Part of every key: raise it when the same texts come to be encoded otherwise.
_VERSION = 1


def cache_folder() -> Path:
    """The folder that Hugging Face datasets caches in, as its environment variables have it now."""
    if folder := os.environ.get("HF_DATASETS_CACHE"):
        return Path(folder).expanduser() / "zolightning"
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HOME", default)).expanduser() / "datasets" / "zolightning"


def cache_key(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """A digest of everything that the encoded examples depend on."""
    digest = hashlib.sha256(f"{_VERSION}:{max_length}:".encode())
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    # Left behind by the tokenizer's last call, and set anew by the next.
    definition["truncation"] = definition["padding"] = None
    digest.update(json.dumps(definition, sort_keys=True).encode())
    for question in questions:
        digest.update(json.dumps([question.prompt, question.options, question.answer]).encode())
    return digest.hexdigest()


def cached(key: str, make: Callable[[], list[Example]]) -> list[Example]:
    """Return the examples kept under a key, or make and keep them.

    Several processes may do so at once. A file that is damaged is made anew, and where nothing can be written the
    examples are made each time.
    """
    path = cache_folder() / f"{key}.json.gz"
    examples = _read(path)
    if examples is None:
        examples = make()
        try:
            _write(path, examples)
        except OSError as error:
            rank_zero_warn(f"tokenised examples are not cached: {error}; set HF_HOME to a folder that can be written")
    return examples


def _read(path: Path) -> list[Example] | None:
    # gzip's checksum tells a damaged file from a whole one.
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            return [Example(*row) for row in json.load(file)]
    except (OSError, EOFError, zlib.error, ValueError, TypeError):
        return None


def _write(path: Path, examples: Sequence[Example]) -> None:
    rows = [[getattr(example, field.name) for field in fields(Example)] for example in examples]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place whole, so that no other process reads half a file.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    try:
        with open(handle, "wb") as file:
            file.write(gzip.compress(json.dumps(rows).encode("ascii"), compresslevel=1))
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
