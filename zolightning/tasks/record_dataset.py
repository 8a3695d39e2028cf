"""ReCoRD: which entity fills the blank?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from torchmetrics import MetricCollection
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.models.batch import OptionBatch
from zolightning.tasks.answers import exact_match, token_f1
from zolightning.tasks.base import Task
from zolightning.tasks.metrics import TextScore
from zolightning.tasks.objectives import Objective, Outcome
from zolightning.tasks.records import Record
from zolightning.tasks.source import Source


class ReCoRD(Task):
    """Reading comprehension with commonsense reasoning (arXiv 1810.12885), with MeZO's prompt.

    An option is the query with one of the passage's entities in its blank; several may be right, and training takes the
    first of them. Metrics are the official ones: F1 and exact match of the chosen entity with the nearest right one.
    """

    source = Source(hub="aps/super_glue", config="record", train_file="train.jsonl", validation_file="val.jsonl")
    fields = ("passage", "query", "entities", "answers")
    shown = ("passage",)
    main_metric = "f1"
    options = ()
    labelled: ClassVar[bool] = False
    default_objective: Objective = "lm"

    @override
    def unpack(self, record: Record) -> list[Record]:
        """Make a record of each query; the official files have a passage a row, and entities as spans of it."""
        queries = record.fields.get("qas")
        if not isinstance(queries, Sequence):
            return [record]
        passage = cast("Mapping[str, Any]", record.fields["passage"])
        text = passage["text"]
        # Both ends are of the entity.
        entities = [text[span["start"] : span["end"] + 1] for span in passage["entities"]]
        return [
            Record(
                {
                    "passage": text,
                    "query": query["query"],
                    "entities": list(dict.fromkeys(entities)),
                    "answers": list(dict.fromkeys(answer["text"] for answer in query["answers"])),
                },
                f"{record.origin}:{query['idx']}",
            )
            for query in queries
        ]

    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""
        return str(fields["passage"]).replace("@highlight\n", "- ") + "\n-"

    @override
    def plain(self, fields: Mapping[str, object]) -> str:
        """The passage."""
        return str(fields["passage"])

    @override
    def option_texts(self, fields: Mapping[str, object]) -> Sequence[str]:
        """The query with each entity in its blank."""
        return [f" {str(fields['query']).replace('@placeholder', entity)}" for entity in _texts(fields, "entities")]

    @override
    def answer(self, record: Record) -> int:
        """The first entity that is right."""
        entities, right = (_texts(record.fields, name) for name in ("entities", "answers"))
        known = [entities.index(text) for text in right if text in entities]
        if not known:
            raise ConfigurationError(f"{record.origin}: of the answers {right} none is an entity of the passage")
        return known[0]

    @override
    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {"f1": TextScore(token_f1), "exact_match": TextScore(exact_match)}, compute_groups=False
        )

    @override
    def outcome(self, model: nn.Module, batch: OptionBatch, scores: Tensor) -> Outcome:
        fields = [question.fields for question in batch.questions]
        chosen = zip(fields, scores.argmax(-1).tolist(), strict=True)
        return {
            "texts": [_texts(own, "entities")[number] for own, number in chosen],
            "golds": [_texts(own, "answers") for own in fields],
        }


def _texts(fields: Mapping[str, object], name: str) -> list[str]:
    return cast("list[str]", fields[name])
