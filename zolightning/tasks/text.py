"""Sentences made to fit into others."""

from __future__ import annotations

from zolightning.tasks.cloze import MASK


def with_blank_between(first: str, second: str) -> str:
    """Return two sentences with a blank between them, as LM-BFF (arXiv 2012.15723) asks whether one follows.

    Example::

        >>> with_blank_between("It rains.", "It is wet.")
        'It rains? <mask>, it is wet.'
    """
    return f"{unstopped(first)}? {MASK}, {lowered(second)}"


def lowered(sentence: str) -> str:
    """Return a sentence that begins with a small letter, unless with the word "I".

    Example::

        >>> lowered("It rained."), lowered("I'm wet.")
        ('it rained.', "I'm wet.")
    """
    first = sentence.split(" ", 1)[0]
    return sentence if first in {"I", "I'm", "I'd", "I've", "I'll"} else sentence[:1].lower() + sentence[1:]


def unstopped(sentence: str) -> str:
    """Return a sentence without the mark that ends it.

    Example::

        >>> unstopped("It rained. ")
        'It rained'
    """
    return sentence.strip().rstrip(".!?;,")
