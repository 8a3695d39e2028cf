"""The bench of evaluations runs, and its yardstick scores what ours does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bench_eval
from bench.candidates import Candidates, scores_of
from zolightning.models.loading import load_model, load_tokenizer
from zolightning.tasks import SampleReviews, Task

CPU = torch.device("cpu")
SMALL = ("--examples", "6", "--batch", "4", "--repeats", "2", "--device", "cpu")


def sample() -> nn.Module:
    return nn.Module.eval(load_model("sample", "float32", "sdpa"))


def sample_task(model: nn.Module, options: list[str] | None = None) -> Task:
    task = SampleReviews(num_train=1, num_dev=1, num_test=6, eval_batch_size=4, options=options)
    task.connect(load_tokenizer("sample"), None, seed=0)
    task.adapt(model)
    return task


def test_a_row_for_each_way_and_a_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    bench_eval.main(SMALL)
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.count("│") == 8]
    assert [row[0] for row in cells] == [
        "one candidate at a time",
        "ours, one example at a time",
        "ours, as they come",
        "ours",
    ]
    assert [row[3] for row in cells] == ["12", "6", "2", "2"]
    assert len({row[5] for row in cells}) == 1
    assert cells[0][6] == "1.00"
    assert f"An evaluation is {cells[-1][6]} times faster than one candidate at a time" in printed
    assert "6 examples of SampleReviews" in printed


@pytest.mark.parametrize("options", [[" bad", " good"], [" bad it was", " good all in all"]])
def test_one_candidate_at_a_time_scores_as_ours(options: list[str]) -> None:
    model = sample()
    task = sample_task(model, options=options)
    candidates = Candidates(task, CPU)
    theirs = torch.stack([scores_of(model, sequences) for sequences in candidates.sequences])
    batches = list(task.predict_dataloader())
    with torch.no_grad():
        ours = torch.cat([task.scores(model, batch) for batch in batches])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    right = theirs.argmax(-1) == torch.cat([batch.answers for batch in batches])
    assert candidates.accuracy(model) == pytest.approx(right.float().mean().item())
    assert candidates.forwards == 12
    assert candidates.tokens > sum(batch.num_tokens for batch in batches)


def test_other_scores_are_no_yardstick() -> None:
    model = sample()
    task = sample_task(model)
    candidates = Candidates(task, CPU)
    candidates.sequences.reverse()
    with pytest.raises(ValueError, match="one candidate at a time"):
        bench_eval.check_same(model, task, candidates, CPU)


def test_a_task_with_files_of_its_own_can_be_named_and_a_template_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"SST2", "COPA", "SampleReviews"} <= set(bench_eval.kinds())
    for words in (["--task", "JsonlTask"], ["--repeats", "0"]):
        with pytest.raises(SystemExit):
            bench_eval.main(words)
    assert "--repeats must be at least 1" in capsys.readouterr().err
