"""Memory of hybrid steps grows with the blocks that are first-order."""

from __future__ import annotations

from pathlib import Path

import pytest

import hybrid_memory
from tests.helpers.models import llama


def test_a_row_for_each_number_of_blocks_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = llama(
        vocab_size=997,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    model.config.save_pretrained(tmp_path / "tiny")
    picture = tmp_path / "hybrid.png"
    hybrid_memory.main(["--shape", str(tmp_path / "tiny"), "--batch", "8", "--device", "cpu", "--plot", str(picture)])
    printed = capsys.readouterr().out
    rows = [line.split("│")[1:3] for line in printed.splitlines() if " of 2" in line]
    assert [row[0].strip() for row in rows] == ["0 of 2", "1 of 2", "2 of 2"]
    one, both = (float(row[1]) for row in rows[1:])
    # Of so small a model the noise, kept for two probes and an update, takes more than activations.
    assert one < both
    assert picture.read_bytes().startswith(b"\x89PNG")
