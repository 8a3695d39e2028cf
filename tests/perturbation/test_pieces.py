"""Parameters in pieces: wherever they are cut, the numbers are the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from zolightning.perturbation import bundle, pieces
from zolightning.perturbation.directions import Directions
from zolightning.perturbation.masks import Score, select_smallest
from zolightning.perturbation.noise import Lane, Stream
from zolightning.perturbation.options import Distribution
from zolightning.perturbation.pieces import Piece

PLACES = [Stream(5, 0, step=3), Stream(5, 0, step=3, query=1)]


def cut(
    distribution: Distribution, dtype: torch.dtype, score: Score | None, elements: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, list[Piece]], dict[str, Tensor]]:
    """Return the pieces of a layer, and its weights after each was moved by the square of its estimate."""
    monkeypatch.setattr(bundle, "LIMIT", 0)
    monkeypatch.setattr(pieces, "_ELEMENTS", {"cpu": elements})
    torch.manual_seed(0)
    layer = nn.Linear(64, 129, dtype=dtype)
    directions = Directions(layer, distribution, compiled=False)
    if score is not None:
        stream = directions.stream("weight", Stream(5, 0, step=0, lane=Lane.MASK))
        directions.selections["weight"] = select_smallest(score, layer.weight.detach().view(-1), 3000, stream)
    found: dict[str, list[Piece]] = {}
    for piece in directions.pieces(PLACES, torch.tensor([0.3, -0.2]), "stochastic"):
        # The estimate's memory is the next piece's.
        found.setdefault(piece.name, []).append(replace(piece, estimate=piece.estimate.clone()))
        piece.subtract(piece.estimate.square(), torch.tensor(0.01, dtype=piece.estimate.dtype))
    return found, {name: p.detach().clone() for name, p in layer.named_parameters()}


@pytest.mark.parametrize("score", [None, "magnitude", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_many_pieces_are_the_whole(
    distribution: Distribution, dtype: torch.dtype, score: Score | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, moved = cut(distribution, dtype, score, 1 << 20, monkeypatch)
    parts, moved_in_parts = cut(distribution, dtype, score, 2048, monkeypatch)
    assert {name: len(found) for name, found in parts.items()} == {"weight": 5, "bias": 1}
    for name, (one,) in whole.items():
        assert torch.equal(torch.cat([part.estimate for part in parts[name]]), one.estimate)
        for words, masks in [(one.words, one.mask)]:
            if words is not None:
                assert torch.equal(torch.cat([part.words for part in parts[name] if part.words is not None]), words)
            if masks is not None:
                assert torch.equal(torch.cat([part.mask for part in parts[name] if part.mask is not None]), masks)
        assert torch.equal(moved_in_parts[name], moved[name])
