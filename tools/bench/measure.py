"""Time and memory of steps: each contender once for its memory, then rounds that take turns for the time."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bench.contenders import Contender, Step
from bench.workload import Workload

_MARK = "bench::measured"


@dataclass
class Result:
    """What is known of one contender.

    Attributes:
        contender: who.
        milliseconds: of each timed step.
        peak: the most bytes held in a step above the weights, optimizer state and scratch included.
        error: why it has no figures, if it has none.
    """

    contender: Contender
    milliseconds: list[float] = field(default_factory=list)
    peak: int | None = None
    error: str | None = None

    @property
    def median(self) -> float | None:
        """The median of the timed steps, in milliseconds."""
        return statistics.median(self.milliseconds) if self.milliseconds and self.error is None else None


class Bench:
    """Measures contenders on one workload.

    Every measured step follows on another of the same contender that nobody times: caches and allocators are then as
    they are in training, and kernels are compiled.

    Args:
        work: what they do.
    """

    def __init__(self, work: Workload) -> None:
        self.work = work
        self._kept: dict[str, Step] = {}

    def run(self, contenders: Sequence[Contender], rounds: int, progress: Callable[[str], None]) -> list[Result]:
        """Measure.

        Args:
            contenders: in the order of a round.
            rounds: how often each is timed.
            progress: is told what has been done, once for each contender's memory and once for each turn.
        """
        results = [Result(contender) for contender in contenders]
        for result in results:
            self._guarded(result, self._measure_memory)
            progress(f"memory of {result.contender.name}")
        for number in range(rounds):
            for result in results:
                if result.error is None:
                    self._guarded(result, self._take_turn)
                progress(f"round {number + 1}: {result.contender.name}")
        return results

    def _guarded(self, result: Result, measure: Callable[[Result], None]) -> None:
        try:
            measure(result)
        except torch.OutOfMemoryError:
            result.error = "out of memory"
            self._kept.pop(result.contender.name, None)
        # Outside of the handler: the traceback holds the tensors of every frame.
        if result.contender.transient or result.error is not None:
            self._tidy()

    def _take_turn(self, result: Result) -> None:
        step = self._step_of(result.contender)
        step()
        self._wait()
        start = time.perf_counter()
        step()
        self._wait()
        result.milliseconds.append((time.perf_counter() - start) * 1e3)

    def _step_of(self, contender: Contender) -> Step:
        # First-order strategies turn dropout on.
        self.work.model.eval()
        if contender.name in self._kept:
            return self._kept[contender.name]
        step = contender.start(self.work)
        if not contender.transient:
            self._kept[contender.name] = step
        return step

    def _measure_memory(self, result: Result) -> None:
        measure = _peak_on_cuda if self.work.device.type == "cuda" else _peak_on_cpu
        result.peak = measure(lambda: self._step_of(result.contender))

    def _wait(self) -> None:
        if self.work.device.type == "cuda":
            torch.cuda.synchronize()

    def _tidy(self) -> None:
        self.work.model.zero_grad(set_to_none=True)
        gc.collect()
        if self.work.device.type == "cuda":
            torch.cuda.empty_cache()


def _peak_on_cuda(start: Callable[[], Step]) -> int:
    """Return the most bytes that a second step holds beyond what was there before the first was set up."""
    before = torch.cuda.memory_allocated()
    step = start()
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_on_cpu(start: Callable[[], Step]) -> int:
    """Return the same from a trace of every allocation: the system's figures would count its own caches."""
    # The profiler announces itself in the middle of the progress bar.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step = start()
        step()
        with record_function(_MARK):
            step()
    assert trace.profiler is not None
    events = trace.profiler.kineto_results.events()
    begin = min(event.start_ns() for event in events if event.name() == _MARK)
    held = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda e: e.start_ns()):
        if event.start_ns() >= begin:
            peak = max(peak, held)
        held += event.nbytes()
    return max(peak, held)
