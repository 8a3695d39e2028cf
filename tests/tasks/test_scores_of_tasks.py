"""Scores of every task's real rows against a slow reference that starts from their text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.families import masked, tiny
from tests.helpers.tokenizers import byte_bpe
from tests.helpers.transformers_alone import option_scores_alone
from zolightning.models.batch import OptionBatch
from zolightning.tasks import CB, COPA, PIQA, RTE, SST2, WSC, AQuA, BoolQ, MultiRC, ReCoRD, Task, WiC, WinoGrande
from zolightning.tasks.cloze import MASK

FOLDERS: dict[type[Task], str] = {
    SST2: "SST-2",
    RTE: "RTE",
    CB: "CB",
    BoolQ: "BoolQ",
    WiC: "WiC",
    WSC: "WSC",
    COPA: "COPA",
    WinoGrande: "WinoGrande",
    PIQA: "PIQA",
    MultiRC: "MultiRC",
    AQuA: "AQuA",
}
# Their options are sentences, which have something to share.
LONG_OPTIONS = (COPA, WinoGrande, PIQA)
ROWS = 12
# Half of BoolQ's prompts are longer, and lose their left end.
LENGTH = 192
# Absolute and relative. Both compute in single precision but add in another order: scores of about -10 were up to 1e-5
# apart.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tokenizer(stories: Path) -> Any:
    return AutoTokenizer.from_pretrained(stories)


@pytest.fixture(scope="module", params=["stories", "opt"])
def model(request: pytest.FixtureRequest, stories: Path, tokenizer: Any) -> nn.Module:
    if request.param == "opt":
        return tiny("opt", torch.float32, vocab_size=len(tokenizer), max_position_embeddings=LENGTH)
    found: nn.Module = AutoModelForCausalLM.from_pretrained(stories)
    return found.eval()


@pytest.mark.parametrize("kind", FOLDERS, ids=lambda kind: kind.__name__)
def test_scores_are_those_of_one_option_at_a_time(
    kind: type[Task], model: nn.Module, tokenizer: Any, shared_data: Path
) -> None:
    task = kind(data_dir=str(shared_data / FOLDERS[kind]), num_train=1, num_dev=1, num_test=ROWS, eval_batch_size=5)
    task.connect(tokenizer, LENGTH, seed=0)
    apart = list(task.predict_dataloader())
    task.adapt(model)
    shared = list(task.predict_dataloader())
    expected = torch.stack(
        [
            option_scores_alone(model, tokenizer, task.prompt(fields), task.option_texts(fields), LENGTH)
            for fields in (record.fields for record in task.splits.test)
        ]
    )
    assert expected.shape[0] == ROWS
    assert [batch.num_examples for batch in apart] == [batch.num_examples for batch in shared] == [5, 5, 2]
    assert (tokens_of(shared) < tokens_of(apart)) == (kind in LONG_OPTIONS)
    for batches in (apart, shared):
        check(task, model, batches, expected)
        for size in (1, 2):
            check(task, model, [piece for batch in batches for piece in batch.split(size)], expected)


def test_scores_of_records_with_options_of_their_own(
    model: nn.Module, tokenizer: Any, shared_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "val.jsonl").symlink_to(shared_data / "ReCoRD" / "train_fewglue32.jsonl")
    task = ReCoRD(data_dir=str(tmp_path), num_train=1, num_dev=1, num_test=4, eval_batch_size=2)
    task.connect(tokenizer, LENGTH, seed=0)
    questions = [task.question(record) for record in task.splits.test]
    expected = [option_scores_alone(model, tokenizer, q.prompt, q.options, LENGTH) for q in questions]
    for model_of_task in (None, model):
        if model_of_task is not None:
            task.adapt(model_of_task)
        with torch.no_grad():
            scores = [row for batch in task.predict_dataloader() for row in task.scores(model, batch)]
        for row, alone in zip(scores, expected, strict=True):
            torch.testing.assert_close(row[: len(alone)], alone, rtol=TOLERANCE, atol=TOLERANCE)
            assert (row[len(alone) :] == float("-inf")).all()


@pytest.mark.parametrize(("kind", "folder"), [(SST2, "SST-2"), (RTE, "RTE")])
def test_scores_of_a_masked_language_model(kind: type[Task], folder: str, shared_data: Path) -> None:
    model, tokenizer = masked("roberta", torch.float32, vocab_size=300, max_position_embeddings=300), byte_bpe()
    options = [" terrible", " great"]
    task = kind(
        data_dir=str(shared_data / folder), num_train=1, num_dev=1, num_test=ROWS, eval_batch_size=5, options=options
    )
    task.connect(tokenizer, 290, seed=0, cloze=True)
    words = [tokenizer(option, add_special_tokens=False)["input_ids"][0] for option in options]
    batches = list(task.predict_dataloader())
    with torch.no_grad():
        expected = []
        for example in (example for batch in batches for example in batch.examples):
            assert example.question is not None
            if not example.cut:
                text = example.question.prompt.replace(MASK, str(tokenizer.mask_token))
                assert tokenizer(text)["input_ids"] == example.prompt
            blank = example.prompt.index(tokenizer.mask_token_id)
            logits = model(input_ids=torch.tensor([example.prompt])).logits[0, blank]
            expected.append(logits.log_softmax(-1)[words])
    check(task, model, batches, torch.stack(expected))
    check(task, model, [piece for batch in batches for piece in batch.split(2)], torch.stack(expected))


def tokens_of(batches: list[OptionBatch]) -> int:
    return sum(batch.num_tokens for batch in batches)


def check(task: Task, model: nn.Module, batches: list[OptionBatch], expected: Tensor) -> None:
    with torch.no_grad():
        scores = torch.cat([task.scores(model, batch) for batch in batches])
    torch.testing.assert_close(scores, expected, rtol=TOLERANCE, atol=TOLERANCE)
