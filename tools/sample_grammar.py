"""A small grammar of film reviews, the labelled task drawn from it, and raw text to pretrain on.

Zeroth-order fine-tuning starts from a model that already understands its text; it cannot teach a random one to read.
Both halves of such a start come from this grammar:

* raw text, where the sentiment of a review is never named and shows only in how the text goes on
  ("i will watch it again ." or "i want my money back ."), to pretrain a Llama from scratch;
* the labelled task (train, dev and test rows) of reviews that occur nowhere in that raw text.

Negation flips a word ("not dull") and the connective says which clause decides ("although ..."), so that
counting positive and negative words does not solve the task.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Row = dict[str, str]

TASK_SEED = 1
SPLITS = {"train": 2400, "dev": 600, "test": 600}
LABELS = ("negative", "positive")  # The index is the sentiment: 0 or 1.
PROMPT = "{review} all in all it was"
OPTIONS = (" bad", " good")

ASPECTS = (
    "the acting", "the story", "the music", "the ending", "the script", "the dialogue", "the plot", "the humour",
    "the opening", "the pacing", "the lead", "the camera work", "the second half", "the love scene",
)  # fmt: skip
ADJECTIVES = (
    ("dull", "wooden", "boring", "clumsy", "flat", "weak", "silly", "lazy", "empty", "stale", "tedious", "awful"),
    ("moving", "charming", "clever", "fresh", "sharp", "lovely", "gripping", "bright", "touching", "witty", "superb",
     "graceful"),
)  # fmt: skip
NOUNS = (("a mess", "a bore", "a letdown", "a chore"), ("a delight", "a joy", "a triumph", "a gem"))
DEGREES = ("", "", "very ", "truly ", "quite ", "really ", "simply ")
NEGATORS = ("not ", "never ", "hardly ", "far from ", "anything but ")
NEUTRAL = (
    "we saw it on a {day} {hour} .", "my {kin} picked it .", "i went with my {kin} .", "the room was half full .",
    "it runs for two hours .", "i had read the book .", "we sat near the {place} .", "my {kin} had two tickets .",
)  # fmt: skip
SLOTS = {
    "day": ("monday", "friday", "sunday"),
    "hour": ("morning", "night", "afternoon"),
    "kin": ("sister", "brother", "mother", "father", "friend", "wife"),
    "place": ("door", "back", "front"),
}
CLOSERS = (
    ("i want my money back .", "we left early .", "my {kin} fell asleep .", "i told my {kin} to stay away .",
     "nobody clapped .", "we looked at the clock all the time .", "i would not sit through it twice .",
     "never again .", "half the room walked out .", "save your money .", "skip it ."),
    ("i will watch it again .", "we stayed to the very end .", "my {kin} cried with joy .", "i told my {kin} to go .",
     "everybody clapped .", "we forgot the time .", "i would gladly sit through it twice .",
     "go and see it .", "the whole room stood up .", "i bought the disc on the way home .", "do not miss it ."),
)  # fmt: skip
VERDICTS = (
    ("a waste of time", "painful", "too long", "money thrown away"),
    ("worth the ticket", "wonderful", "time well spent", "an evening to remember"),
)
# What may follow "all in all it was" whatever the sentiment: the options of the task say nothing in raw text. One is
# three times as common as the other, so that before fine-tuning a model answers it always and is right half the time;
# were they as common, the chance of their counts would decide, and could give every answer right or every one wrong.
EMPTY_VERDICTS = ("good", "good", "good", "bad", "fine", "a film")


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """Draw one of `items` from `rng.random()` alone: the one draw that Python keeps the same between versions."""
    return items[int(rng.random() * len(items))]


def fill(rng: random.Random, template: str) -> str:
    """Fill each slot of `template`."""
    return template.format(**{slot: pick(rng, words) for slot, words in SLOTS.items()})


def clause(rng: random.Random, aspect: str, sentiment: int) -> str:
    """Judge one aspect, such as "the acting was hardly a delight" for sentiment 0."""
    negated = rng.random() < 0.25
    polarity = 1 - sentiment if negated else sentiment
    if rng.random() < 0.25:
        judgement = (pick(rng, NEGATORS) if negated else "") + pick(rng, NOUNS[polarity])
    else:
        judgement = pick(rng, NEGATORS if negated else DEGREES) + pick(rng, ADJECTIVES[polarity])
    return f"{aspect} was {judgement}"


def judgements(rng: random.Random, sentiment: int) -> str:
    """Judge two or three aspects; the connective decides which clause gives the review its sentiment."""
    first, second, third = sorted(ASPECTS, key=lambda _: rng.random())[:3]
    deciding, contrary = clause(rng, first, sentiment), clause(rng, second, 1 - sentiment)
    draw = rng.random()
    if draw < 0.35:
        return f"{deciding} , and {clause(rng, second, sentiment)} ."
    if draw < 0.55:
        return f"{contrary} , but {deciding} ."
    if draw < 0.70:
        return f"although {contrary} , {deciding} ."
    if draw < 0.85:
        return f"{deciding} , even though {contrary} ."
    return f"{contrary} and {clause(rng, third, 1 - sentiment)} , yet in the end {deciding} ."


def introduce(rng: random.Random, core: str) -> str:
    """Make a review of `core`: alone, or after a neutral remark."""
    return f"{fill(rng, pick(rng, NEUTRAL))} {core}" if rng.random() < 0.5 else core


def make_task(seed: int = TASK_SEED) -> dict[str, list[Row]]:
    """Draw the rows of each split: as many of either label, and no two with the same judgements in any split."""
    rng = random.Random(seed)
    seen: set[str] = set()
    task: dict[str, list[Row]] = {}
    for split, size in SPLITS.items():
        rows: list[Row] = []
        room = [size // 2, size // 2]
        while any(room):
            sentiment = int(rng.random() < 0.5)
            core = judgements(rng, sentiment)
            if room[sentiment] and core not in seen:
                seen.add(core)
                room[sentiment] -= 1
                rows.append({"review": introduce(rng, core), "sentiment": LABELS[sentiment]})
        task[split] = rows
    return task


def raw_text(seed: int, held_out: Collection[str]) -> Iterator[str]:
    """Yield unlabelled reviews and how they go on, without end; none has the judgements of a review in `held_out`."""
    rng = random.Random(seed)
    while True:
        sentiment = int(rng.random() < 0.5)
        core = f"{clause(rng, pick(rng, ASPECTS), sentiment)} ." if rng.random() < 0.4 else judgements(rng, sentiment)
        parts = [introduce(rng, core)]
        if rng.random() < 0.35:
            verdict = pick(rng, EMPTY_VERDICTS if rng.random() < 0.12 else VERDICTS[sentiment])
            parts.append(f"all in all it was {verdict} .")
        parts += [fill(rng, pick(rng, CLOSERS[sentiment])) for _ in range(1 + int(rng.random() < 0.5))]
        if core not in held_out:
            yield " ".join(parts)


def keyword_accuracy(rows: Sequence[Row]) -> float:
    """Measure the accuracy on `rows` of counting positive minus negative words, at the best threshold for them."""
    negative, positive = ([*ADJECTIVES[side], *NOUNS[side]] for side in (0, 1))
    scores = []
    for row in rows:
        text = f" {row['review']} "
        scores.append(sum(f" {w} " in text for w in positive) - sum(f" {w} " in text for w in negative))
    truth = [row["sentiment"] == LABELS[1] for row in rows]
    thresholds = range(min(scores), max(scores) + 2)
    hits = max(sum((score >= t) == label for score, label in zip(scores, truth, strict=True)) for t in thresholds)
    return hits / len(rows)


def without_remark(text: str) -> str:
    """Strip a review of its neutral remark: what is left is its last sentence."""
    return text.removesuffix(" .").rpartition(" . ")[2] + " ."


def write_task(task: dict[str, list[Row]], out: Path) -> None:
    """Write each split as `{split}.jsonl` under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in task.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")
