"""Texts with a blank, on byte-BPE and WordPiece tokenizers, and what masked language models make of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.helpers.families import masked
from tests.helpers.tokenizers import byte_bpe, word_piece
from zolightning.errors import ConfigurationError
from zolightning.evaluation import evaluate
from zolightning.models.batch import collate
from zolightning.models.question import Question
from zolightning.models.scoring import option_scores
from zolightning.tasks import MNLI, RTE, SST2, SST5, TREC, CoLA, SQuAD, Task
from zolightning.tasks.cloze import MASK, encode_cloze

TOKENIZERS = pytest.mark.parametrize("make", [byte_bpe, word_piece])
OPTIONS = (" terrible", " great")


def question(text: str) -> Question:
    return Question(text, OPTIONS, 1, "f:1")


@TOKENIZERS
def test_the_blank_is_where_the_words_are_scored(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = make()
    (example,) = encode_cloze([question(f"dull it was {MASK}.")], tokenizer, 32)
    assert example.mask is not None
    assert example.prompt[example.mask] == tokenizer.mask_token_id
    assert [tokenizer.convert_ids_to_tokens(ids)[0].strip("\u0120") for ids in example.continuations] == [
        "terrible",
        "great",
    ]
    assert example.prompt[0] == tokenizer.cls_token_id
    assert example.prompt[-1] == tokenizer.sep_token_id


@given(before=st.integers(0, 12), behind=st.integers(0, 12), limit=st.integers(3, 30))
def test_what_is_cut_is_far_from_the_blank(before: int, behind: int, limit: int) -> None:
    tokenizer = word_piece()
    text = " ".join(["a"] * before + [MASK] + ["b"] * behind)
    (example,) = encode_cloze([question(text)], tokenizer, limit)
    assert len(example.prompt) == min(limit, before + behind + 3)
    assert example.cut == (before + behind + 3 > limit)
    assert example.mask is not None
    assert example.prompt[example.mask] == tokenizer.mask_token_id
    kept = (example.mask - 1, len(example.prompt) - example.mask - 2)
    lost = (before - kept[0], behind - kept[1])
    assert min(lost) >= 0
    # The nearer end loses something only where the farther one has nothing left.
    nearer, farther = (1, 0) if before >= behind else (0, 1)
    assert not lost[nearer] or not kept[farther]


@pytest.mark.parametrize(
    ("text", "options", "limit", "message"),
    [
        ("a", OPTIONS, 32, "there must be one <mask>"),
        (f"{MASK} a {MASK}", OPTIONS, 32, "there must be one <mask>"),
        (f"a {MASK}", (" very", " great"), 32, r"' very' is not one token but \['v', '##e', '##r', '##y'\]"),
        (f"a {MASK}", (" great", "great"), 32, "are the same token"),
        (f"a {MASK}", OPTIONS, 2, "f:1: 2 tokens leave no room for text"),
    ],
)
def test_bad_texts(text: str, options: tuple[str, ...], limit: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        encode_cloze([Question(text, options, 0, "f:1")], word_piece(), limit)


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_scores_do_not_depend_on_the_batch(family: str) -> None:
    model, tokenizer = masked(family, torch.float64, vocab_size=300), byte_bpe()
    texts = [f"dull it was {MASK}.", f"it {MASK}", f"{MASK}: it was dull it was dull"]
    examples = encode_cloze([question(text) for text in texts], tokenizer, 32)
    batch = collate(examples)
    with torch.no_grad():
        together = option_scores(model, batch)
        pieces = torch.cat([option_scores(model, piece) for piece in batch.split(2)])
        for example, scores, others in zip(examples, together, pieces, strict=True):
            assert example.mask is not None
            logits = model(input_ids=torch.tensor([example.prompt])).logits[0, example.mask]
            expected = logits.log_softmax(-1)[[ids[0] for ids in example.continuations]]
            torch.testing.assert_close(scores, expected, rtol=0, atol=1e-9)
            torch.testing.assert_close(others, expected, rtol=0, atol=1e-9)


CLOZE: list[tuple[type[Task], dict[str, object], str]] = [
    (SST2, {"sentence": "dull ", "label": 0}, "dull It was <mask>."),
    (SST5, {"sentence": "dull", "label": 0}, "dull It was <mask>."),
    (RTE, {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}, "It rains? <mask>, it is wet."),
    (MNLI, {"premise": "It rains.", "hypothesis": "I am wet.", "label": 0}, "It rains? <mask>, I am wet."),
    (TREC, {"text": "Who won ?", "label": 3}, "<mask>: Who won ?"),
    (CoLA, {"sentence": "He slept.", "label": 1}, "He slept. This is <mask>."),
]


@pytest.mark.parametrize(("kind", "fields", "text"), CLOZE)
def test_texts(kind: type[Task], fields: dict[str, object], text: str) -> None:
    task = kind()
    assert task.cloze(fields) == text
    assert len(task.cloze_options) == len(task.options)


def test_a_task_without_a_blank_says_so() -> None:
    with pytest.raises(ConfigurationError, match="SQuAD has no text with a blank for a masked language model"):
        SQuAD().cloze({})


def test_evaluation(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sst2")
    for name in ("train.tsv", "dev.tsv"):
        rows = "".join(f"{'dull ' * (i % 4 + 1)}\t{i % 2}\n" for i in range(12))
        (folder / name).write_text("sentence\tlabel\n" + rows)
    task = SST2(data_dir=str(folder), num_train=6, num_dev=6, batch_size=3)
    task.connect(byte_bpe(), None, seed=0, cloze=True)
    model = masked("roberta", torch.float32, vocab_size=300)
    task.adapt(model)
    values = evaluate(task, model, task.test_dataloader(), torch.device("cpu"))
    assert 0 <= values["accuracy"] <= 1
    assert task.predictions(model, next(iter(task.predict_dataloader())))[0]["prompt"].endswith(f"It was {MASK}.")
