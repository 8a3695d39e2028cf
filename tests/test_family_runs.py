"""A run of each model family from the command line: fit, test, and the same test of what it exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from tests.helpers.families import masked, tiny
from tests.helpers.runs import newest
from tests.helpers.tokenizers import byte_bpe, word_piece
from zolightning.cli import main
from zolightning.sample import MODEL

CAUSAL = ("opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "gpt2", "gpt_neox")
MASKED = ("roberta", "bert", "modernbert")
# The library takes Qwen2's tokenizers apart, and would not put together the sample's again.
BYTES = ("qwen2", *MASKED)


def saved(family: str, folder: Path) -> str:
    """Write a tiny model of a family with a tokenizer, as the hub would have it."""
    tokenizer: Any = AutoTokenizer.from_pretrained(MODEL)
    if family in BYTES:
        tokenizer = word_piece() if family == "bert" else byte_bpe()
    make = masked if family in MASKED else tiny
    model: nn.Module = make(family, torch.float32, vocab_size=max(300, len(tokenizer)))
    cast("Any", model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def reviews(folder: Path) -> str:
    for name in ("train.tsv", "dev.tsv"):
        rows = (f"it was {'dull ' * (i % 4)}{('bad', 'good')[i % 2]}\t{i % 2}\n" for i in range(24))
        (folder / name).write_text("sentence\tlabel\n" + "".join(rows))
    return str(folder)


@pytest.mark.parametrize("family", [*CAUSAL, *MASKED])
def test_fit_test_and_export(family: str, tmp_path: Path) -> None:
    options = '[" terrible", " great"]' if family in BYTES else '[" bad", " good"]'
    flags = ["--data=SST2", f"--data.data_dir={reviews(tmp_path)}", f"--data.options={options}", "--data.max_length=32"]
    flags += ["--data.num_train=12", "--data.num_dev=8", "--data.batch_size=4", "--model.strategy=ZOSGD"]
    flags += ["--model.strategy.lr=1e-3", "--model.strategy.eps=1e-2", "--trainer.accelerator=cpu"]
    flags += ["--trainer.max_steps=3", f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    # It caps its attention scores, which the fast kernels do not.
    flags += ["--model.attention=eager"] if family == "gemma2" else []
    main(["fit", f"--model.backbone={saved(family, tmp_path / 'model')}", *flags])
    run = newest(tmp_path / "runs")
    trained = [f"--model.backbone={tmp_path / 'model'}", f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}"]
    told = []
    for which in (trained, [f"--model.backbone={run / 'best'}"]):
        main(["test", *flags, *which])
        main(["predict", *flags, *which])
        written = sorted((tmp_path / "runs").rglob("predictions.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        told.append(written[-1].read_text())
    one, other = ([json.loads(line) for line in text.splitlines()] for text in told)
    assert [row["prediction"] for row in one] == [row["prediction"] for row in other]
    assert [row["scores"] for row in one] == [row["scores"] for row in other]
    assert len(one) == 24
