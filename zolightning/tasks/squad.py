"""SQuAD: which words of a passage answer a question?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from typing_extensions import override

from zolightning.tasks.generation import GenerationTask
from zolightning.tasks.records import Record
from zolightning.tasks.source import Source


class SQuAD(GenerationTask):
    """SQuAD 1.1 (arXiv 1606.05250), with MeZO's prompt; F1 and exact match as the official script has them."""

    source = Source(hub="rajpurkar/squad", train_file="train-v1.1.json", validation_file="dev-v1.1.json")
    fields = ("title", "context", "question", "answers")
    shown = ("context", "question")

    @override
    def unpack(self, record: Record) -> list[Record]:
        """Make a record of each question; the official files have all articles in one object."""
        articles = record.fields.get("data")
        if not isinstance(articles, Sequence):
            return [record]
        return [
            Record(
                {
                    "title": article["title"],
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {"text": [answer["text"] for answer in question["answers"]]},
                },
                f"{record.origin}:{question['id']}",
            )
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that the answer is to follow."""
        title = str(fields["title"]).replace("_", " ")
        return f"Title: {title}\nContext: {fields['context']}\nQuestion: {str(fields['question']).strip()}\nAnswer:"

    def golds(self, fields: Mapping[str, object]) -> Sequence[str]:
        """Every annotator's answer."""
        return cast("Mapping[str, Sequence[str]]", fields["answers"])["text"]
