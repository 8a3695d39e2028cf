"""MultiRC: is an answer right? A question may have several."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score
from typing_extensions import override

from zolightning.models.batch import OptionBatch
from zolightning.tasks.base import Task
from zolightning.tasks.metrics import GroupedExactMatch
from zolightning.tasks.objectives import Outcome
from zolightning.tasks.records import Record
from zolightning.tasks.source import Source


class MultiRC(Task):
    """Multi-sentence reading comprehension (Khashabi et al. 2018), with MeZO's prompt.

    Metrics are those of SuperGLUE (arXiv 1905.00537), F1 over all answers (F1a) and the share of questions of which all
    answers are judged right (exact match), and MeZO's, accuracy over answers. A question's answers
    are in one split, of which the last question may lack some.
    """

    source = Source(hub="aps/super_glue", config="multirc", train_file="train.jsonl", validation_file="val.jsonl")
    fields = ("paragraph", "question", "answer", "label", "idx")
    shown = ("paragraph", "question", "answer")
    main_metric = "f1a"
    options = ("No", "Yes")
    labels: Mapping[str, int] = {"0": 0, "1": 1}

    @override
    def unpack(self, record: Record) -> list[Record]:
        """Make a record of each answer; the official files have a paragraph a row, the hub an answer."""
        passage = record.fields.get("passage")
        if not isinstance(passage, Mapping):
            return [record]
        return [
            Record(
                {
                    "paragraph": passage["text"],
                    "question": question["question"],
                    "answer": answer["text"],
                    "label": answer.get("label"),
                    "idx": {"paragraph": record.fields["idx"], "question": question["idx"], "answer": answer["idx"]},
                },
                f"{record.origin}:{question['idx']}:{answer['idx']}",
            )
            for question in passage["questions"]
            for answer in question["answers"]
        ]

    @override
    def family(self, record: Record) -> Hashable:
        """The question."""
        return _question(record.fields)

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return (
            f"{fields['paragraph']}\nQuestion: {fields['question']}\n"
            f'I found this answer "{fields["answer"]}". Is that correct? Yes or No?\n'
        )

    @override
    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {"f1a": BinaryF1Score(), "exact_match": GroupedExactMatch(), "accuracy": BinaryAccuracy()},
            compute_groups=False,
        )

    @override
    def outcome(self, model: nn.Module, batch: OptionBatch, scores: Tensor) -> Outcome:
        numbers = [paragraph << 32 | question for paragraph, question in (_question(q.fields) for q in batch.questions)]
        groups = torch.tensor(numbers, device=scores.device)
        return {**super().outcome(model, batch, scores), "groups": groups}


def _question(fields: Mapping[str, object]) -> tuple[int, int]:
    idx = cast("Mapping[str, Any]", fields["idx"])
    return int(idx["paragraph"]), int(idx["question"])
