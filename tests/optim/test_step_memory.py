"""What a step takes beyond the weights: no mask is stored, and nothing of a model's size."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.helpers.models import llama
from zolightning.optim import Sparsity, ZerothOrderOptimizer

MIB = 1 << 20


def peak_of_a_step(model: nn.Module, sparsity: Sparsity | None) -> int:
    """Return the most bytes that a step held at once beyond what was there before it."""
    optimizer = ZerothOrderOptimizer(model, lr=1e-6, eps=1e-3, sparsity=sparsity)
    ids = torch.randint(0, 32_000, (2, 8), generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        return logits.float().logsumexp(-1).mean()

    optimizer.step(loss)  # Scratch is made on the first step, and reused.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        optimizer.step(loss)
    held = peak = 0
    assert trace.profiler is not None
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.slow
def test_a_sparse_step_peaks_within_a_mebibyte_of_a_dense_one_and_below_the_model() -> None:
    model = llama(
        vocab_size=32_000,
        hidden_size=288,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        tie_word_embeddings=True,
    )
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    dense, sparse = peak_of_a_step(model, None), peak_of_a_step(model, Sparsity(0.2))
    print(f"beyond weights and scratch: dense {dense / MIB:.2f} MiB, sparse {sparse / MIB:.2f} MiB")
    assert abs(sparse - dense) <= MIB
    assert sparse < weights / 2
