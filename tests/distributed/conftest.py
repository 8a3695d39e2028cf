"""Two processes for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed.pair import Pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two processes that train together."""
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.close()
