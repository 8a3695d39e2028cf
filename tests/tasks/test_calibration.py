"""Options compared by how much likelier the prompt makes them: against two plain evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tasks.test_base import Colours, connected, folder, model
from zolightning.errors import ConfigurationError
from zolightning.models.batch import collate
from zolightning.models.question import Question
from zolightning.models.scoring import token_log_likelihoods
from zolightning.tasks import SST2, SQuAD, WiC
from zolightning.tasks.encoding import encode
from zolightning.tasks.records import Record

__all__ = ("folder", "model")


@pytest.mark.parametrize("options", [None, [" x", " y"], [" red x", " blue"]])
@pytest.mark.parametrize("shared", [False, True])
def test_scores_are_differences_of_sums(
    folder: Path, words: PreTrainedTokenizerFast, model: LlamaForCausalLM, options: list[str] | None, shared: bool
) -> None:
    task = connected(folder, words, calibration="sfc", options=options)
    if shared:
        task.adapt(model)
    for batch in task.val_dataloader():
        assert batch.null is not None
        # The null prompt of these records is one and the same.
        assert batch.null.num_examples == 1
        with torch.no_grad():
            scores = task.scores(model, batch)
            sums = [alone(model, words, task, question.prompt) for question in batch.questions]
            expected = torch.stack(sums) - alone(model, words, task, "is")
            torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
            assert torch.equal(task.assess(model, batch)[1]["preds"], expected.argmax(-1))
            pieces = [task.scores(model, piece) for piece in batch.split(3)]
            torch.testing.assert_close(torch.cat(pieces), scores, rtol=1e-4, atol=1e-5)
        assert batch.to("cpu").null is not None
    assert next(iter(task.train_dataloader())).null is None


def alone(model: LlamaForCausalLM, words: PreTrainedTokenizerFast, task: Colours, prompt: str) -> Tensor:
    """Return the log-likelihood of each option behind a prompt [options]."""
    examples = encode([Question(prompt, task.options, 0, "file:1")], words, 64)
    return token_log_likelihoods(model, collate(examples))[0].sum(-1)


def test_null_prompts() -> None:
    assert SST2().null_question(Record({"sentence": "dull ", "label": 0}, "a:1")).prompt == "It was"
    fields = {"word": "run", "sentence1": "Run!", "sentence2": "She ran.", "label": 0}
    assert "Run!" not in WiC().null_question(Record(fields, "a:1")).prompt


def test_generated_answers_are_not_calibrated() -> None:
    with pytest.raises(ConfigurationError, match="calibration must be one of none, got 'sfc'"):
        SQuAD(calibration="sfc")
