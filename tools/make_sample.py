"""Make the embedded sample: a sentiment task, its tokenizer and a small pretrained Llama.

    python tools/make_sample.py task --out DIR                 # the three task files, byte-identical each time
    python tools/make_sample.py all --out zolightning/sample   # task, tokenizer and pretrained model

What the task asks and what the model has read come from one grammar, `tools/sample_grammar.py`.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sample_grammar import (
    LABELS,
    OPTIONS,
    PROMPT,
    Row,
    keyword_accuracy,
    make_task,
    raw_text,
    without_remark,
    write_task,
)

TEXT_SEED = 2
MODEL_SEED = 3


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
