"""DROP: reading a passage, and counting, comparing or adding what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from typing_extensions import override

from zolightning.tasks.answers import BETWEEN_SPANS, LISTED_BY, drop_exact_match, drop_f1
from zolightning.tasks.generation import GenerationTask
from zolightning.tasks.metrics import Likeness
from zolightning.tasks.records import Record
from zolightning.tasks.source import Source


class DROP(GenerationTask):
    """Discrete reasoning over paragraphs (arXiv 1903.00161), with MeZO's prompt and the official script's metrics.

    An answer of several spans is one text with ", " between them, and so is a prediction that is to match it. The hub's
    rows do not keep annotators apart: each span there counts as an answer of its own, as in MeZO's runs; the official
    files (`data_dir`) are judged as the official script judges.
    """

    source = Source(hub="ucinlp/drop", train_file="drop_dataset_train.json", validation_file="drop_dataset_dev.json")
    fields = ("passage", "question", "answers")
    shown = ("passage", "question")
    likenesses: ClassVar[Mapping[str, Likeness]] = {"f1": drop_f1, "exact_match": drop_exact_match}

    @override
    def unpack(self, record: Record) -> list[Record]:
        """Make a record of each question; the official files have all passages in one object."""
        if "question" in record.fields:
            return [_flat(record)]
        return [
            Record(
                {
                    "passage": passage["passage"],
                    "question": question["question"],
                    "answers": _distinct([question["answer"], *question.get("validated_answers", [])]),
                },
                f"{record.origin}:{question['query_id']}",
            )
            for passage in cast("Mapping[str, Mapping[str, Any]]", record.fields).values()
            for question in passage["qa_pairs"]
        ]

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that the answer is to follow."""
        return f"Passage: {fields['passage']}\nQuestion: {str(fields['question']).strip()}\nAnswer:"

    @override
    def written_as(self, gold: str) -> str:
        """The spans with ", " between them."""
        return gold.replace(BETWEEN_SPANS, LISTED_BY)

    def golds(self, fields: Mapping[str, object]) -> Sequence[str]:
        """Every annotator's answer."""
        return cast("Sequence[str]", fields["answers"])


def _flat(record: Record) -> Record:
    """A row of the hub, where every annotator's answer is a text."""
    spans = record.fields.get("answers_spans")
    if not isinstance(spans, Mapping):
        return record
    return Record({**record.fields, "answers": list(dict.fromkeys(spans["spans"]))}, record.origin)


def _distinct(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    return [text for text in dict.fromkeys(map(_text, answers)) if text]


def _text(answer: Mapping[str, Any]) -> str:
    """An answer that is a number, spans, or a date."""
    if answer["number"]:
        return str(answer["number"])
    if answer["spans"]:
        return BETWEEN_SPANS.join(answer["spans"])
    return " ".join(part for part in (answer["date"].get(name) for name in ("day", "month", "year")) if part)
