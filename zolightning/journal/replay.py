"""From base weights and a journal to the fine-tuned weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from zolightning.journal.identity import check_same, describe, rebuild
from zolightning.journal.reader import Journal, read
from zolightning.journal.scheme import base_of, loaded
from zolightning.optim.recall import goes_in_turn, take_in_turn
from zolightning.optim.records import Record
from zolightning.optim.zeroth_order import ZerothOrderOptimizer

# Weights times steps from which on code that takes several steps at a time is sooner compiled than done without: 17 s
# over the 1e-9 s or so that it saves of each, on a CPU.
_WORTH_COMPILING = 20_000_000_000
# Steps whose coefficients are gathered.
_AT_ONCE = 64


def replay(
    optimizer: ZerothOrderOptimizer,
    records: Sequence[Record],
    tick: Callable[[int], object] = lambda taken: None,
    several: bool | None = None,
) -> None:
    """Take recorded steps again: the weights and the optimizer's state become what they were, without a forward.

    Bit for bit on the kind of device that the records were made on. Where steps are linear in directions of signs and
    weights are float32, each pass over the weights may take four of them.

    Args:
        optimizer: made as that of the run was, on the weights that the first of the records began with.
        records: in their order.
        tick: called with the number of steps that were taken since it last was.
        several: whether to take several steps in a pass where that can be done; None for where the code for it is
            sooner compiled than the steps are done without.

    Raises:
        ConfigurationError: if the optimizer's steps are not told by scalars alone.
    """
    size = sum(parameter.numel() for parameter in optimizer.engine.parameters.values())
    several = size * len(records) >= _WORTH_COMPILING if several is None else several
    if several and goes_in_turn(optimizer):
        for first in range(0, len(records), _AT_ONCE):
            some = records[first : first + _AT_ONCE]
            take_in_turn(optimizer, some)
            tick(len(some))
        return
    optimizer.follow(records)
    for _ in records:
        optimizer.step()
        tick(1)


def load(
    base: str,
    journal: str | Path | Journal,
    step: int | Literal["best", "last"] = "last",
    device: str = "cpu",
    bar: bool = False,
) -> nn.Module:
    """Return the model that a run had fine-tuned, from its base model and its journal.

    Args:
        base: hub id or folder of the base model.
        journal: the file, or what `read` returned.
        step: after how many steps; `best` for those before the best validation, `last` for all.
        device: where to replay, and to leave the model; on the kind of device of the run it is bit-equal to the run's.
        bar: whether to show a progress bar.

    Raises:
        ConfigurationError: if the journal cannot be read, has no such step, or is of another base model.

    Example::

        model = zolightning.journal.load("mistralai/Mistral-7B-v0.1", "journal.zoj")
    """
    known = journal if isinstance(journal, Journal) else read(journal)
    records = known.up_to(step)
    model = loaded(base, known.header).to(device)
    apply(model, known, records, bar)
    return model


def apply(model: nn.Module, journal: Journal, records: Sequence[Record], bar: bool = False) -> None:
    """Move a model, whose weights are the base's, by the first records of a journal.

    Raises:
        ConfigurationError: if the model is not the one that the journal began with.
    """
    optimizer = rebuild(model, journal.header)
    here: dict[str, Any] = {"base": base_of(model, adapter=journal.header["scheme"]["adapter"]), **describe(optimizer)}
    began = journal.header["model"]
    advice = f"Give the base model that the run began with: {began['backbone']}, in {began['dtype']}"
    check_same(journal.header, here, journal.path, advice)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not bar) as progress:
        shown = progress.add_task(f"Replaying {journal.path.name}", total=len(records))
        replay(optimizer, records, lambda taken: progress.advance(shown, taken))
