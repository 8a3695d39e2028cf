"""Metrics of our own, against plain loops and scikit-learn."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from zolightning.tasks import MultiRC
from zolightning.tasks.answers import token_f1
from zolightning.tasks.metrics import GroupedExactMatch, TextScore

JUDGED = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


@given(rows=JUDGED, cut=st.integers(0, 30))
def test_multirc_s_metrics(rows: list[tuple[int, int, int]], cut: int) -> None:
    metrics = MultiRC().metrics()
    groups, preds, target = (torch.tensor(column) for column in zip(*rows, strict=True))
    for part in (slice(0, cut), slice(cut, None)):
        if len(preds[part]):
            metrics.update(preds=preds[part], target=target[part], groups=groups[part], unheeded=None)
    values = metrics.compute()
    questions = defaultdict[int, list[bool]](list)
    for group, said, right in rows:
        questions[group].append(said == right)
    assert float(values["exact_match"]) == pytest.approx(sum(map(all, questions.values())) / len(questions))
    assert float(values["accuracy"]) == pytest.approx(accuracy_score(target, preds))
    assert float(values["f1a"]) == pytest.approx(f1_score(target, preds, zero_division=0))


def test_groups_may_have_large_numbers() -> None:
    metric = GroupedExactMatch()
    metric.update(torch.tensor([1, 0, 1]), torch.tensor([1, 1, 1]), torch.tensor([5 << 32, 5 << 32, (5 << 32) + 1]))
    assert float(metric.compute()) == 0.5


def test_texts_are_held_against_the_nearest_right_one() -> None:
    metric = TextScore(token_f1)
    metric.update(["red cat"], [["blue dog", "red"]])
    metric.update(["owl"], [["cat"]])
    value: Tensor = metric.compute()
    assert float(value) == pytest.approx((2 / 3 + 0) / 2)
