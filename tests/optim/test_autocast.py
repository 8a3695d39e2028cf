"""Under autocast, which keeps the weights it has cast: the probes see what they should all the same."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.words import Words, loss_of
from zolightning.optim import ZerothOrderOptimizer
from zolightning.perturbation import bundle, probe
from zolightning.perturbation.engine import Engine
from zolightning.perturbation.noise import Stream
from zolightning.perturbation.options import EngineOptions, ProbeMode

PLACE = Stream(seed=3, parameter=0, step=1)


def g_and_loss_after(mode: ProbeMode) -> tuple[float, float]:
    """Return the projected gradient of a step under autocast, and the loss after it in the same context."""
    model = Words(torch.float32)
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, eps=5e-2, seed=1, engine=EngineOptions(probe=mode))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        loss_of(model)()
        optimizer.step(loss_of(model))
        after = float(loss_of(model)())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert after == float(loss_of(model)()), "the update is seen at once"
    assert optimizer.last is not None
    return float(optimizer.last.projected_gradients), after


@pytest.mark.usefixtures("both_paths")
def test_both_ways_to_probe_find_the_same_gradient() -> None:
    """Walks in float32 come back to 1e-7, which may turn a last bit of bfloat16 in a loss: 2^-8 over 2 eps."""
    forward, place = g_and_loss_after("in_forward"), g_and_loss_after("in_place")
    assert abs(forward[0]) > 0.2
    assert abs(forward[0] - place[0]) < 2**-8 / 0.1
    assert abs(forward[1] - place[1]) < 2**-8


def test_a_matrix_in_chunks_is_cast_as_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LIMIT", 0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 150, bias=False))
    inputs = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    seen = []
    for limit in (probe.SCRATCH_BYTES, 1):
        monkeypatch.setattr(probe, "SCRATCH_BYTES", limit)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Engine(model).perturbed(PLACE, 0.1):
            seen.append(model(inputs))
    assert seen[0].dtype == seen[1].dtype == torch.bfloat16
    # A product over fewer rows may add up in another order: a last bit of bfloat16 here and there, twice over.
    torch.testing.assert_close(*seen, rtol=2**-6, atol=2**-7)
