"""Both ways that noise is made."""

from __future__ import annotations

import pytest

from zolightning.perturbation import bundle, motion, pieces


@pytest.fixture(params=["together", "one by one"])
def both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test twice: tiny models are small enough for one call of noise, real weights go chunk by chunk."""
    if request.param == "one by one":
        monkeypatch.setattr(bundle, "LIMIT", 0)
        # Of signs, 2,048 make a unit, which a chunk must begin at.
        monkeypatch.setattr(motion, "_CHUNK", {"cpu": 2048})
        monkeypatch.setattr(pieces, "_ELEMENTS", {"cpu": 2048})
