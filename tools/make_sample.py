"""Make the embedded sample: a sentiment task, its tokenizer and a small pretrained Llama.

Zeroth-order fine-tuning starts from a model that already understands its text; it cannot teach a random
one to read. This tool therefore makes both halves of such a start from one small grammar of film reviews:

* raw text, where the sentiment of a review is never named and shows only in how the text goes on
  ("i will watch it again ." or "i want my money back ."), to pretrain a Llama from scratch;
* the labelled task (train, dev and test rows) of reviews that occur nowhere in that raw text.

Negation flips a word ("not dull") and the connective says which clause decides ("although ..."), so that
counting positive and negative words does not solve the task.

    python tools/make_sample.py task --out DIR                 # the three task files, byte-identical each time
    python tools/make_sample.py all --out zolightning/sample   # task, tokenizer and pretrained model
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

T = TypeVar("T")
Row = dict[str, str]

TASK_SEED = 1
TEXT_SEED = 2
MODEL_SEED = 3
SPLITS = {"train": 2400, "dev": 600, "test": 600}
LABELS = ("negative", "positive")  # the index is the sentiment: 0 or 1
PROMPT = "{review} all in all it was"
OPTIONS = (" bad", " good")

# ---------------------------------------------------------------------------------------------- grammar

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


# ------------------------------------------------------------------------------------------ task and raw text


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


# ------------------------------------------------------------------------------------------ tokenizer and model


def make_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer of whole words, each with the space before it, so that decoding gives the text back."""
    special = ["<s>", "</s>", "<pad>", "<unk>"]
    vocabulary = {piece: i for i, piece in enumerate(special + ["\u2581" + word for word in words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build a Llama of about 0.2 million parameters with random weights."""
    torch.manual_seed(MODEL_SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def batches(text: Iterator[str], size: int) -> Iterator[list[str]]:
    """Group `text` into batches of documents of like length, so that little of a batch is padding."""
    rng = random.Random(MODEL_SEED)
    window = 16
    while True:
        documents = sorted((next(text) for _ in range(window * size)), key=lambda document: document.count(" "))
        grouped = [documents[start : start + size] for start in range(0, len(documents), size)]
        yield from sorted(grouped, key=lambda _: rng.random())


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    text: Iterator[str],
    steps: int,
    batch_size: int = 64,
    peak_lr: float = 3e-3,
) -> None:
    """Train `model` to continue `text`: AdamW, linear warm-up, cosine decay, every document seen once."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = 200
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1.0))),
    )
    columns = (TextColumn("pretraining"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("pretraining", total=steps)
        total = 0.0
        for step, documents in zip(range(1, steps + 1), batches(text, batch_size), strict=False):
            batch = tokenizer(
                [document + tokenizer.eos_token for document in documents], padding=True, return_tensors="pt"
            )
            # Padding stands on the right, where causal attention never looks back at it: no mask is needed.
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            loss = model(input_ids=batch["input_ids"], labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            progress.advance(bar)
            total += float(loss.detach())
            if step % 500 == 0:
                progress.console.print(f"step {step}: mean loss {total / 500:.3f}")
                total = 0.0


@torch.inference_mode()
def zero_shot_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row]) -> float:
    """Measure the accuracy on `rows` of the likelier of the two options after the prompt, before any fine-tuning."""
    options = [tokenizer(option, add_special_tokens=False)["input_ids"][0] for option in OPTIONS]
    batch = tokenizer([PROMPT.format(**row) for row in rows], padding=True, padding_side="left", return_tensors="pt")
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], logits_to_keep=1).logits
    truth = torch.tensor([LABELS.index(row["sentiment"]) for row in rows])
    return float((logits[:, -1, options].argmax(dim=-1) == truth).float().mean())


# ------------------------------------------------------------------------------------------------- command line


def write_task(task: dict[str, list[Row]], out: Path) -> None:
    """Write each split as `{split}.jsonl` under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in task.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


def main() -> None:
    """Read the command line and make the task, or the task, the tokenizer and the model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("task", "all"), help="the task files alone, or also tokenizer and model")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--steps", type=int, default=4000, help="pretraining steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of pretraining (default: %(default)s)")
    arguments = parser.parse_args()
    console = Console()

    task = make_task()
    write_task(task, arguments.out)
    for split, rows in task.items():
        console.print(f"{split}: {len(rows)} rows, keyword accuracy {keyword_accuracy(rows):.3f}")
    if arguments.what == "task":
        return

    torch.set_num_threads(arguments.threads)
    held_out = {without_remark(row["review"]) for rows in task.values() for row in rows}
    sample = raw_text(TEXT_SEED, held_out)
    words = sorted({word for _ in range(20_000) for word in next(sample).split()})
    tokenizer = make_tokenizer(words)
    model = make_model(tokenizer)
    console.print(f"{model.num_parameters():,} parameters, {len(tokenizer)} pieces")
    pretrain(model, tokenizer, raw_text(TEXT_SEED, held_out), arguments.steps)
    for split, rows in task.items():
        console.print(f"{split}: zero-shot accuracy {zero_shot_accuracy(model, tokenizer, rows):.3f}")
    model.save_pretrained(arguments.out / "model")
    tokenizer.save_pretrained(arguments.out / "model")


if __name__ == "__main__":
    main()
