"""The memory profiler: what it measures is there, and what it holds on to is let go."""

from __future__ import annotations

import pytest
import torch

from zolightning import phases
from zolightning.callbacks import MemoryProfiler
from zolightning.callbacks.memory import GIB
from zolightning.phases import phase


@pytest.fixture
def profiler() -> MemoryProfiler:
    profiler = MemoryProfiler()
    phases.listen(profiler)
    return profiler


def test_a_phases_peak_is_its_own(profiler: MemoryProfiler) -> None:
    size = 256 << 20
    with phase("probe"):
        kept = torch.ones(size // 4)
        del kept
    with phase("update"):
        pass
    probe, update = profiler.phases["probe"], profiler.phases["update"]
    assert probe.peak_resident - probe.resident > 0.8 * size / GIB
    assert update.peak_resident < probe.peak_resident - 0.5 * size / GIB
    assert profiler.peak() == pytest.approx(probe.peak_resident)


def test_unlistening_stops_it(profiler: MemoryProfiler) -> None:
    phases.unlisten(profiler)
    with phase("load"):
        pass
    assert not profiler.phases


def test_a_phase_is_left_after_an_exception(profiler: MemoryProfiler) -> None:
    with pytest.raises(RuntimeError), phase("validation"):
        raise RuntimeError
    assert "validation" in profiler.phases


def test_interval_is_checked() -> None:
    with pytest.raises(ValueError, match="every_n_steps"):
        MemoryProfiler(every_n_steps=0)
