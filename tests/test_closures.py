"""The closure of several ranks: their losses average to the batch's, whatever its size, in as many forwards each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zolightning.closures import BatchLoss
from zolightning.models.batch import OptionBatch
from zolightning.models.loading import load_model, load_tokenizer
from zolightning.optim.ranks import Ranks
from zolightning.tasks import SampleReviews


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_model("sample", "float64", "sdpa")


class Counting(SampleReviews):
    """Counts its forwards."""

    forwards = 0

    def loss(self, model: nn.Module, batch: OptionBatch) -> Tensor:
        self.forwards += 1
        return super().loss(model, batch)


@pytest.mark.parametrize("objective", ["classification", "lm"])
@pytest.mark.parametrize(("examples", "size", "micro"), [(7, 3, None), (7, 3, 2), (2, 3, None), (1, 4, 1), (9, 2, 2)])
def test_losses_of_ranks_average_to_the_batch(
    objective: Any, examples: int, size: int, micro: int | None, model: nn.Module
) -> None:
    options = [" bad", " good all in all"]
    task = Counting(num_train=20, num_dev=4, num_test=4, batch_size=examples, objective=objective, options=options)
    task.connect(load_tokenizer("sample"), None, seed=0)
    batch = next(iter(task.train_dataloader()))
    with torch.no_grad():
        whole = BatchLoss(task, model, batch, None)()
        losses, forwards = [], []
        for rank in range(size):
            before = task.forwards
            losses.append(BatchLoss(task, model, batch, micro, Ranks(rank, size), average=False)())
            forwards.append(task.forwards - before)
    # Llama's norms compute in float32 whatever the weights are.
    torch.testing.assert_close(torch.stack(losses).mean(), whole, rtol=0, atol=1e-6)
    assert len({*forwards}) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_follow_each_other_and_differ_by_one_at_most(size: int) -> None:
    for count in range(20):
        bounds = [Ranks(rank, size).bounds(count) for rank in range(size)]
        assert [index for first, end in bounds for index in range(first, end)] == list(range(count))
        sizes = [end - first for first, end in bounds]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) == -(-count // size)
