"""A journal's bytes: what is written is read, what was changed or torn is not."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zolightning.errors import ConfigurationError
from zolightning.journal import JournalWriter, read
from zolightning.journal.layout import FORMAT, Layout, Validation
from zolightning.journal.writer import locked
from zolightning.optim.records import Record

anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
floats = st.floats(width=32)


def header(factors: int = 2, dtype: str = "float32") -> dict[str, Any]:
    selection = {"monitor": "val/accuracy", "mode": "max"}
    return {"format": FORMAT, "factors": factors, "dtype": dtype, "seed": 1, "selection": selection}


def record(step: int, factors: int = 2) -> Record:
    return Record(step, 1e-6 * (step + 1), 0.5 + step, tuple(0.25 * number - step for number in range(factors)), 4)


def written(folder: Path, number: int, factors: int = 2) -> Path:
    path = folder / "journal.zoj"
    path.unlink(missing_ok=True)
    with JournalWriter(path, header(factors)) as writer:
        writer.append(record(step, factors) for step in range(number))
    return path


def assert_unreadable(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no journal|not as it was written"):
        read(path)


def equal(one: Record, other: Record) -> bool:
    """To the bit, NaN included."""

    def bits(values: Record) -> bytes:
        return struct.pack(f"<{2 + len(values.factors)}d", values.lr, values.loss, *values.factors)

    return (one.step, one.forwards) == (other.step, other.forwards) and bits(one) == bits(other)


@given(
    step=st.integers(0, 2**32 - 1),
    lr=st.floats(allow_nan=False),
    loss=floats.filter(lambda value: not math.isnan(value)),
    factors=st.lists(floats.filter(lambda value: not math.isnan(value)), min_size=1, max_size=5),
    forwards=st.integers(0, 2**16 - 1),
)
def test_a_record_comes_back(step: int, lr: float, loss: float, factors: list[float], forwards: int) -> None:
    layout = Layout(header(len(factors)))
    made = Record(step, lr, loss, tuple(factors), forwards)
    found = layout.decode(layout.encode(made))
    assert isinstance(found, Record)
    assert equal(found, made)


def test_a_skipped_step_and_a_validation_come_back() -> None:
    layout = Layout(header(1, "float64"))
    found = layout.decode(layout.encode(Record(3, 1e-6, math.nan, (math.nan,))))
    assert isinstance(found, Record)
    assert math.isnan(found.loss)
    assert math.isnan(found.factors[0])
    assert layout.decode(layout.encode(Validation(3, 0.625))) == Validation(3, 0.625)


def test_a_journal_comes_back(tmp_path: Path) -> None:
    path = written(tmp_path, 5)
    journal = read(path)
    assert journal.header == header()
    assert journal.steps == tuple(record(step) for step in range(5))
    assert (journal.size, journal.lost) == (path.stat().st_size, 0)


def test_twenty_thousand_steps_are_less_than_a_megabyte() -> None:
    layout = Layout(header(1))
    assert layout.size == 27
    assert 20_000 * layout.size < 1_000_000


@anywhere
@given(data=st.data())
def test_any_flipped_bit_is_detected(tmp_path: Path, data: st.DataObject) -> None:
    path = written(tmp_path, 4)
    good = path.read_bytes()
    journal = read(path)
    place, bit = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(good[:place] + bytes([good[place] ^ (1 << bit)]) + good[place + 1 :])
    start = journal.size - 4 * journal.layout.size
    if place < start:
        assert_unreadable(path)
        return
    found = read(path)
    whole = (place - start) // journal.layout.size
    assert found.steps == journal.steps[:whole]
    assert found.lost == len(good) - start - whole * journal.layout.size


@anywhere
@given(size=st.integers(0, 10_000))
def test_a_torn_tail_is_cut(tmp_path: Path, size: int) -> None:
    path = written(tmp_path, 4)
    good, journal = path.read_bytes(), read(path)
    path.write_bytes(good[:size])
    start = journal.size - 4 * journal.layout.size
    if size < start:
        assert_unreadable(path)
        return
    found = read(path)
    assert found.steps == journal.steps[: (size - start) // journal.layout.size]
    with JournalWriter(path, {}, found) as writer:
        writer.append(journal.steps[len(found.steps) :])
    assert path.read_bytes() == good


def test_a_record_of_another_journal_or_out_of_order_does_not_fit(tmp_path: Path) -> None:
    path = written(tmp_path, 2)
    other = Layout(header() | {"seed": 2})
    for strange in (other.encode(record(2)), Layout(header()).encode(record(3))):
        path.write_bytes(path.read_bytes() + strange)
        assert len(read(path).steps) == 2
    with JournalWriter(path, {}, read(path)) as writer:
        for early_or_late in (record(1), record(3), Validation(3, 0.5)):
            with pytest.raises(ValueError, match="does not follow 2 steps"):
                writer.append([early_or_late])
        writer.append([Validation(1, 0.5), record(2)])
    assert (len(read(path).steps), read(path).lost) == (3, 0)


def test_the_best_step_is_the_first_of_equals(tmp_path: Path) -> None:
    path = tmp_path / "journal.zoj"
    with JournalWriter(path, header()) as writer:
        for step, score in enumerate((math.nan, 0.75, 0.75, 0.625)):
            writer.append([record(step), Validation(step + 1, score)])
    journal = read(path)
    assert journal.best() == Validation(2, 0.75)
    assert journal.up_to("best") == journal.steps[:2]
    with JournalWriter(path, journal.header, journal) as writer:
        # A run that goes on, and validates more often, comes back to a step before the one that it had.
        writer.append([Validation(1, 0.75)])
    assert read(path).best() == Validation(1, 0.75)
    assert journal.up_to("last") == journal.steps
    assert journal.up_to(0) == ()
    with pytest.raises(ConfigurationError, match="has 4 steps: step must be at most that, got 5"):
        journal.up_to(5)
    with pytest.raises(ConfigurationError, match="tells of no validation"):
        read(written(tmp_path / "other", 1)).best()


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no journal"):
        read(tmp_path / "none.zoj")
    (tmp_path / "strange.zoj").write_bytes(b"PK" + bytes(40))
    with pytest.raises(ConfigurationError, match="is no journal"):
        read(tmp_path / "strange.zoj")
    path = tmp_path / "later.zoj"
    path.write_bytes(Layout(header() | {"format": 9}).head)
    with pytest.raises(ConfigurationError, match="has format 9, this version reads 1"):
        read(path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be written .*set trainer\.default_root_dir"):
        JournalWriter(tmp_path / "file" / "journal.zoj", header())
    path = written(tmp_path, 1)
    with pytest.raises(ConfigurationError, match=r"there is a journal .* already"):
        JournalWriter(path, header())
    with (
        JournalWriter(path, {}, read(path)),
        pytest.raises(ConfigurationError, match="another process writes the journal"),
    ):
        JournalWriter(path, {}, read(path))


def test_a_journal_that_changes_before_it_is_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, 4)
    known = read(path)
    with JournalWriter(path, {}, known) as writer:
        writer.append([record(4)])
    with pytest.raises(ConfigurationError, match=r"has written the journal .* since it was read"):
        JournalWriter(path, {}, known)
    assert len(read(path).steps) == 5
    new = tmp_path / "new"
    new.write_bytes(path.read_bytes())

    def replaced(name: Path, flags: int) -> int:
        file = original(name, flags)
        new.replace(path)
        return file

    original = os.open
    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(ConfigurationError, match="another process writes the journal"):
        locked(path)
