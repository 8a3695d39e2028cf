"""What a backbone's configuration tells."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from zolightning.models.loading import max_positions


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("llama", {"max_position_embeddings": 77}, 77),
        ("gpt2", {"n_positions": 77}, 77),
        ("bloom", {}, None),
    ],
)
def test_the_most_tokens_that_a_model_reads(family: str, settings: dict[str, Any], expected: int | None) -> None:
    assert max_positions(AutoConfig.for_model(family, **settings)) == expected
