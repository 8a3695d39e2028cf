"""Sentences made to fit into others."""

from __future__ import annotations


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
