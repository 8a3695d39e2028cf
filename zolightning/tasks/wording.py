"""What a task says: how a record becomes a prompt with options, and which of them is right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from zolightning.errors import ConfigurationError
from zolightning.models.question import Question
from zolightning.tasks.cloze import MASK
from zolightning.tasks.records import Record, read_file

PromptStyle = Literal["aligned", "plain"]


class Wording(ABC):
    """The texts of a task. A new one states the class attributes and ``prompt``.

    Attributes:
        fields: What a record must have; the label may be among them.
        options: The words that may follow a prompt, each with its leading space where it needs one.
        label_field: The field that holds the label.
        labels: The number of the right option for each label.
        shown: The fields that the plain prompt is made of; none stands for all but the label.
        cloze_options: The words that may fill the blank of ``cloze``, a token each; RoBERTa's begin with a space.
        context: The field that a null prompt does without; empty stands for the first of ``fields``.
        prompt_style: Which of the two prompts is used.
    """

    label_field: str = "label"
    fields: tuple[str, ...]
    options: tuple[str, ...]
    labels: Mapping[str, int]
    shown: tuple[str, ...] = ()
    cloze_options: tuple[str, ...] = ()
    context: str = ""
    prompt_style: PromptStyle = "aligned"

    @abstractmethod
    def prompt(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow."""

    def plain(self, fields: Mapping[str, object]) -> str:
        """Text that an option is to follow, without a word of ours: the record's fields, a line each.

        ZO-Bench (arXiv 2402.11592) calls such prompts unaligned: nothing in them makes the task look like text that a
        model was trained on.
        """
        shown = self.shown or [name for name in self.fields if name != self.label_field]
        lines = [str(fields[name]).strip() for name in shown]
        spaced = all(option.startswith(" ") for option in self.option_texts(fields))
        return "\n".join(lines) + ("" if spaced else "\n")

    def cloze(self, fields: Mapping[str, object]) -> str:
        """Text with a blank, ``MASK``, that one of ``cloze_options`` is to fill, for masked language models.

        Raises:
            ConfigurationError: If the task has none.
        """
        raise ConfigurationError(
            f"{type(self).__name__} has no text with a blank for a masked language model: set model.backbone to a "
            "causal one, or take a task that has, such as SST2 or MNLI"
        )

    def option_texts(self, fields: Mapping[str, object]) -> Sequence[str]:
        """The options of one record."""
        return self.options

    def answer(self, record: Record) -> int:
        """The right option of a record.

        Raises:
            ConfigurationError: If the label is none of ``labels``.
        """
        label = record.fields[self.label_field]
        answer = self.labels.get(str(label).strip().lower())
        if answer is None:
            raise ConfigurationError(
                f"{record.origin}: {self.label_field}={label!r} is no label; allowed are {', '.join(self.labels)}"
            )
        return answer

    def unpack(self, record: Record) -> list[Record]:
        """The records that a row of the official files holds: itself, in most tasks."""
        return [record]

    def family(self, record: Record) -> Hashable:
        """What a record shares with those that must be in the same split as it: nothing, in most tasks."""
        return record.origin

    def check(self, records: Sequence[Record]) -> None:
        """Refuse records, whether they will be used or not, that lack a field or have an unknown label.

        Raises:
            ConfigurationError: At the first such record.
        """
        for record in records:
            for name in self.fields:
                if record.fields.get(name) is None:
                    found = ", ".join(key for key, value in record.fields.items() if value is not None) or "none"
                    raise ConfigurationError(f"{record.origin}: there is no field {name!r}; found {found}")
            self.answer(record)

    def checked(self, rows: Sequence[Record]) -> list[Record]:
        """The records that rows of the official files hold, all with the task's fields and a known label.

        Raises:
            ConfigurationError: At the first record that is not so.
        """
        records = [record for row in rows for record in self.unpack(row)]
        self.check(records)
        return records

    def read_checked(self, path: Path) -> list[Record]:
        """The records that a file holds, all with the task's fields and a known label.

        Raises:
            ConfigurationError: If it cannot be read, or at the first record that is not so.
        """
        return self.checked(read_file(path))

    def question(self, record: Record, cloze: bool = False) -> Question:
        """A record as prompt and options, or as a text with a blank and what may fill it."""
        fields, aligned = record.fields, self.prompt_style == "aligned"
        if cloze:
            text = self.cloze(fields)
            options = self.cloze_options or tuple(self.option_texts(fields))
            if not aligned:
                text = f"{self.plain(fields).strip()} {MASK}"
        else:
            text = self.prompt(fields) if aligned else self.plain(fields)
            options = tuple(self.option_texts(fields))
        return Question(text, options, self.answer(record), record.origin, fields)

    def null_question(self, record: Record, cloze: bool = False) -> Question:
        """The options of a record after a prompt without its context, such as "It was" of SST-2."""
        empty = Record({**record.fields, self.context or self.fields[0]: ""}, record.origin)
        prompt = self.question(empty, cloze).prompt.lstrip()
        origin = f"{record.origin}, without its context (calibration: sfc)"
        return replace(self.question(record, cloze), prompt=prompt, answer=0, origin=origin)
