"""Fixtures for all tests: no network, no trace left behind, and the real files where they are."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from zolightning import phases

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

torch.set_num_threads(1)
hypothesis.settings.register_profile("zolightning", database=None, deadline=None)
hypothesis.settings.load_profile("zolightning")


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run each test in a folder and cache of its own, offline, and undo what a run changes in the process."""
    monkeypatch.chdir(tmp_path)
    # The variables are for processes that a test starts; in this one datasets has read them long ago.
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "huggingface" / "datasets")
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    state = torch.random.get_rng_state()
    filters = list(logging.getLogger("lightning.pytorch.utilities.rank_zero").filters)
    with warnings.catch_warnings():
        yield
    torch.random.set_rng_state(state)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").filters[:] = filters
    phases._listeners.clear()


@pytest.fixture(scope="session")
def stories() -> Path:
    """A small real Llama."""
    return _shared("models/stories3M")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real task files in their official formats."""
    return _shared("data")


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What Lightning's logger is given, which does not propagate."""
    listener = _Listener()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addHandler(listener)
    yield listener.messages
    logger.removeHandler(listener)


class _Listener(logging.Handler):
    """Keeps every message."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"../shared/{name} is not here")
    return folder
