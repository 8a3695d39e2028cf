"""Likeness of texts, against the official rules as others have written them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.text import SQuAD as OfficialSQuAD

from zolightning.tasks.answers import drop_exact_match, drop_f1, exact_match, normalised, token_f1

WORDS = st.lists(st.sampled_from(["the", "a", "Cat", "cat.", "7", "7.0", "on-time", "and,"]), max_size=6).map(" ".join)


@given(text=WORDS, golds=st.lists(WORDS, min_size=1, max_size=3))
def test_squad_rules_are_torchmetrics_s(text: str, golds: list[str]) -> None:
    official = OfficialSQuAD()
    official.update(
        [{"prediction_text": text, "id": "1"}],
        [{"answers": {"text": golds, "answer_start": [0] * len(golds)}, "id": "1"}],
    )
    values = official.compute()
    assert max(token_f1(text, gold) for gold in golds) * 100 == pytest.approx(float(values["f1"]), abs=1e-4)
    assert max(exact_match(text, gold) for gold in golds) * 100 == pytest.approx(float(values["exact_match"]))


def test_normalising() -> None:
    assert normalised("The  Cat, a cat -- and AN owl.") == "cat cat and owl"
    assert normalised("theatre") == "theatre"


@pytest.mark.parametrize(
    ("text", "gold", "f1", "same"),
    [
        ("7 yards", "7-yard", 0.5, 0.0),
        ("7.0", "7", 1.0, 1.0),
        ("1,000", "1000", 1.0, 1.0),
        ("nine yards", "9 yards", 0.0, 0.0),
        ("the Broncos", "Broncos", 1.0, 1.0),
        ("Ann, Bob", "Bob\x1fAnn", 1.0, 1.0),
        ("Ann", "Bob\x1fAnn", 0.5, 0.0),
        ("Paris France", "Paris, France", 1.0, 1.0),
        (", ".join("abcdefghijklmnopqrstuvwxy"), "\x1f".join("bcdefg"), 0.24, 0.0),
        ("Ann Lee, Bob", "Bob\x1fAnn", 0.83, 0.0),
        ("", "Ann", 0.0, 0.0),
    ],
)
def test_drop_rules(text: str, gold: str, f1: float, same: float) -> None:
    assert drop_f1(text, gold) == f1
    assert drop_exact_match(text, gold) == same


@given(text=WORDS)
def test_a_text_is_like_itself(text: str) -> None:
    assert drop_f1(text, text) == exact_match(text, text) == drop_exact_match(text, text) == 1.0
