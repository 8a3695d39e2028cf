"""How much memory each phase of a run takes."""

from __future__ import annotations

import resource
import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from zolightning.phases import Phase, listen, unlisten

GIB = float(1 << 30)
_ON_DEVICE = ("peak_allocated", "peak_reserved", "allocated")
_RESIDENT = ("peak_resident", "resident")
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass
class PhaseMemory:
    """The most that a phase took, in GiB; device numbers stay zero without one.

    Args:
        peak_allocated: most memory in tensors on the device.
        peak_reserved: most memory that the device's allocator held.
        allocated: memory in tensors on the device at the phase's end.
        peak_resident: largest resident set of the process.
        resident: resident set of the process at the phase's end.
    """

    peak_allocated: float = 0.0
    peak_reserved: float = 0.0
    allocated: float = 0.0
    peak_resident: float = 0.0
    resident: float = 0.0

    def raise_to(self, other: PhaseMemory) -> None:
        """Keep the larger of each peak, and the other's present numbers."""
        self.peak_allocated = max(self.peak_allocated, other.peak_allocated)
        self.peak_reserved = max(self.peak_reserved, other.peak_reserved)
        self.allocated = other.allocated
        self.peak_resident = max(self.peak_resident, other.peak_resident)
        self.resident = other.resident


class MemoryProfiler(Callback):
    """Measures the memory of the phases load, probe, update and validation, logs it and prints a table at the end.

    **Logged metrics**, in GiB, the largest over all ranks, as `memory/<phase>/<number>`: on CUDA `peak_allocated`,
    `peak_reserved` and `allocated`; everywhere `peak_resident` and `resident`, the process's resident set. Where the
    system has no /proc, `peak_resident` is the process's peak so far, not the phase's.

    Args:
        every_n_steps: how often the phases of a step are measured.
        table: whether to print the table at the end of `fit`.

    Raises:
        ValueError: if every_n_steps is below 1.
    """

    def __init__(self, every_n_steps: int = 50, table: bool = True) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.table = table
        self.phases: dict[Phase, PhaseMemory] = {}
        self._measuring = True
        self._device = torch.device("cpu")

    def peak(self) -> float | None:
        """The most memory that the steps took so far, in GiB: allocated on the device, or resident without one.

        None before a step has been measured.
        """
        steps = [self.phases[phase] for phase in ("probe", "update") if phase in self.phases]
        if not steps:
            return None
        return max(memory.peak_allocated for memory in steps) or max(memory.peak_resident for memory in steps)

    def enter_phase(self, phase: Phase) -> None:
        """Start measuring a phase's peak."""
        if self._measuring:
            _reset_peaks(self._device)

    def leave_phase(self, phase: Phase) -> None:
        """Take up a phase's numbers."""
        if self._measuring:
            self.phases.setdefault(phase, PhaseMemory()).raise_to(_measure(self._device))

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        listen(self)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        unlisten(self)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._measuring = trainer.global_step % self.every_n_steps == 0 or "probe" not in self.phases

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._measuring:
            pl_module.log_dict(self._metrics(), reduce_fx="max", sync_dist=True)
        self._measuring = True

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        unlisten(self)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for memory in self.phases.values():
            numbers = torch.tensor(astuple(memory), device=self._device)
            largest = trainer.strategy.reduce(numbers, reduce_op="max")
            memory.raise_to(PhaseMemory(*torch.as_tensor(largest).tolist()))
        if self.table and trainer.is_global_zero:
            Console().print(self._table())

    def _metrics(self) -> dict[str, torch.Tensor]:
        return {
            f"memory/{phase}/{number}": torch.tensor(getattr(memory, number))
            for phase, memory in self.phases.items()
            for number in self._shown()
        }

    def _table(self) -> Table:
        table = Table("phase", *(number.replace("_", " ") for number in self._shown()), title="Memory by phase (GiB)")
        for phase, memory in self.phases.items():
            table.add_row(phase, *(f"{getattr(memory, number):.3f}" for number in self._shown()))
        return table

    def _shown(self) -> tuple[str, ...]:
        return (*_ON_DEVICE, *_RESIDENT) if self._device.type == "cuda" else _RESIDENT


def _reset_peaks(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        _CLEAR_REFS.write_text("5")  # Linux: set the resident set's high-water mark to its present size.
    except OSError:
        return


def _measure(device: torch.device) -> PhaseMemory:
    memory = PhaseMemory()
    if device.type == "cuda":
        memory.peak_allocated = torch.cuda.max_memory_allocated(device) / GIB
        memory.peak_reserved = torch.cuda.max_memory_reserved(device) / GIB
        memory.allocated = torch.cuda.memory_allocated(device) / GIB
    memory.peak_resident, memory.resident = _resident()
    return memory


def _resident() -> tuple[float, float]:
    """Return the process's peak and present resident set in GiB."""
    try:
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
        return peak, peak
    peak, present = (int(lines[key].split()[0]) * 1024 / GIB for key in ("VmHWM", "VmRSS"))
    return peak, present
