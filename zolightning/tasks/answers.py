"""How near a text is to one that counts as right, by the rules of the official evaluation scripts."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)

# Between the spans of a right answer that has several: in no text, so that a comma within a span is not taken for it.
BETWEEN_SPANS = "\x1f"
# Between those of a text that a model writes or is trained on.
LISTED_BY = ", "


def normalised(text: str) -> str:
    """Return a text in small letters without punctuation, articles and repeated spaces, as SQuAD's script has it."""
    kept = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(text: str, gold: str) -> float:
    """Return 1 if two texts are the same once normalised, else 0 (SQuAD, arXiv 1606.05250)."""
    return float(normalised(text) == normalised(gold))


def token_f1(text: str, gold: str) -> float:
    """Return the harmonic mean of precision and recall of a text's tokens in a gold text's (SQuAD, arXiv 1606.05250).

    Example::

        >>> token_f1("in the city of Paris", "Paris, France")
        0.3333333333333333
    """
    ours, theirs = normalised(text).split(), normalised(gold).split()
    if not ours or not theirs:
        # By the rule of SQuAD 2's script.
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def drop_exact_match(text: str, gold: str) -> float:
    """Return 1 if a text has the same spans as a gold text, else 0 (DROP, arXiv 1903.00161)."""
    ours, theirs = (sorted(map(_drop_normalised, spans)) for spans in _spans(text, gold))
    return float(ours == theirs)


def drop_f1(text: str, gold: str) -> float:
    """Return the F1 of spans as sets of tokens, the mean over spans paired as well as they can be (DROP, 1903.00161).

    A pair of which the gold span has numbers, and the other none of them, counts nothing. Where the gold text has
    several spans, the other is read as a list with commas. Rounded to two digits, as the script does.

    Example::

        >>> drop_f1("7.0 yards", "7-yard")
        0.5
    """
    ours, theirs = ([frozenset(_drop_normalised(span).split()) for span in spans] for spans in _spans(text, gold))
    gains = [[_set_f1(span, other) for other in theirs] for span in ours]
    return round(_best_pairing(gains) / max(len(ours), len(theirs)), 2)


def _spans(text: str, gold: str) -> tuple[list[str], list[str]]:
    theirs = gold.split(BETWEEN_SPANS)
    return (text.split(LISTED_BY) if len(theirs) > 1 else [text]), theirs


def _drop_normalised(text: str) -> str:
    """A text's tokens, which spaces and hyphens end, without articles; numbers in one way of writing."""
    tokens = []
    for token in re.split(" |-", text.lower()):
        plain = token if _is_number(token) else "".join(letter for letter in token if letter not in _PUNCTUATION)
        written = str(float(plain)) if _is_number(plain) else plain
        tokens += _ARTICLES.sub(" ", written).split()
    return " ".join(tokens)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _set_f1(tokens: frozenset[str], gold: frozenset[str]) -> float:
    numbers = {token for token in gold if _is_number(token)}
    common = len(tokens & gold)
    if not tokens and not gold:
        return 1.0
    if not common or (numbers and not numbers & tokens):
        return 0.0
    return 2 * common / (len(tokens) + len(gold))


def _best_pairing(gains: Sequence[Sequence[float]]) -> float:
    """The largest sum of entries of which no two share a row or a column."""
    columns = list(zip(*gains, strict=True))
    # Of the rows, which are the fewer, by the set of those in use, a bit each, after each column.
    best = {0: 0.0}
    for column in columns if len(gains) <= len(columns) else gains:
        for used, total in list(best.items()):
            for row, gain in enumerate(column):
                if not used >> row & 1:
                    grown = used | 1 << row
                    best[grown] = max(best.get(grown, 0.0), total + gain)
    return max(best.values())
