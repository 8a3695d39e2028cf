"""The layout of a batch: shared sequences, right padding, micro-batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zolightning.models.batch import OptionBatch, collate
from zolightning.models.question import Example

SINGLE = [Example([1, 5, 6], [[8], [9]], [0, 0], 1), Example([1, 5], [[8], [9]], [0, 0], 0)]
RAGGED = [
    Example([1, 5, 6], [[8], [8, 9, 10], [20, 21]], [0, 0, 0], 2),
    Example([1, 5, 6, 7, 33], [[40, 8], [41, 42, 3]], [1, 1], 0),
    *SINGLE,
]


def read(batch: OptionBatch, example: int) -> list[list[tuple[list[int], int]]]:
    """Each option's tokens, each with all the tokens that the model has seen when it scores it."""
    options = []
    for option in range(batch.counts.size(1)):
        scored = []
        for place in range(int(batch.counts[example, option])):
            at = int(batch.reads[example, option, place])
            row, position = int(batch.rows[at]), int(batch.positions[at])
            seen = batch.input_ids[row, : position + 1].tolist()
            if batch.segments is not None:
                whose = batch.segments[row, : position + 1].tolist()
                seen = [token for token, owner in zip(seen, whose, strict=True) if owner in (0, whose[-1])]
            assert batch.choices[batch.columns[example, option, place]] == batch.tokens[example, option, place]
            scored.append((seen, int(batch.tokens[example, option, place])))
        options.append(scored)
    return options


def wanted(example: Example, option: int) -> list[tuple[list[int], int]]:
    ids = example.prompt + example.continuations[option]
    return [(ids[:at], ids[at]) for at in range(len(example.prompt) + example.starts[option], len(ids))]


def test_one_token_options_share_a_sequence_and_its_last_logits() -> None:
    batch = collate(SINGLE)
    assert batch.input_ids.tolist() == [[1, 5, 6], [1, 5, 1]]
    assert batch.rows.tolist() == [0, 1]
    assert batch.positions.tolist() == [2, 1]
    assert batch.reads.tolist() == [[[0], [0]], [[1], [1]]]
    assert batch.tokens.tolist() == [[[8], [9]]] * 2
    assert batch.answers.tolist() == [1, 0]
    assert (batch.num_examples, batch.num_tokens, batch.num_gold_tokens) == (2, 5, 2)


def test_an_option_that_begins_another_shares_its_sequence() -> None:
    batch = collate(RAGGED[:1])
    # " 8" alone reads the prompt, which begins both; the last tokens (10, 21) are never read.
    assert batch.input_ids.tolist() == [[1, 5, 6, 8, 9], [1, 5, 6, 20, 1]]
    assert batch.counts.tolist() == [[1, 3, 2]]
    assert batch.num_tokens == 9
    assert batch.num_gold_tokens == 2


def test_padding_is_a_token_that_the_batch_has_anyway() -> None:
    for row_limit in (0, 99):
        batch = collate(RAGGED, row_limit)
        assert batch.num_tokens < batch.input_ids.numel()
        read = {token for example in RAGGED for tail in example.tails for token in example.prompt + tail}
        assert set(batch.input_ids.flatten().tolist()) == read


def test_prompts_are_shared_within_the_limit() -> None:
    batch = collate(RAGGED[:1], 6)
    assert batch.segments is not None
    assert batch.input_ids.tolist() == [[1, 5, 6, 8, 9, 20]]
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1, 2]]
    assert batch.reads.tolist() == [[[0, 0, 0], [0, 1, 2], [0, 3, 0]]]
    assert batch.positions.tolist() == [2, 3, 4, 5]
    assert batch.num_tokens == 6
    assert collate(RAGGED[:1], 5).segments is None


def test_equal_lengths_are_not_padded() -> None:
    batch = collate([SINGLE[0]] * 3)
    assert batch.input_ids.numel() == batch.num_tokens == 9


def test_the_right_option_alone() -> None:
    batch = collate([example.right for example in RAGGED])
    assert batch.answers.tolist() == [0, 0, 0, 0]
    for index, example in enumerate(RAGGED):
        assert read(batch, index) == [wanted(example, example.answer)]
    assert batch.num_gold_tokens == int(batch.counts.sum()) == 5


def test_present_marks_ragged_options() -> None:
    assert collate(RAGGED).present.tolist() == [[True] * 3] + [[True, True, False]] * 3


def examples() -> st.SearchStrategy[list[Example]]:
    token = st.integers(1, 4)
    options = st.lists(st.lists(token, min_size=1, max_size=4), min_size=1, max_size=4)

    @st.composite
    def one(draw: st.DrawFn) -> Example:
        prompt = draw(st.lists(token, max_size=6))
        continuations = draw(options)
        lead = int(not prompt)
        starts = [draw(st.integers(0, len(option) - 1)) + lead for option in continuations]
        continuations = [[1] * lead + option for option in continuations]
        return Example(prompt, continuations, starts, draw(st.integers(0, len(continuations) - 1)))

    return st.lists(one(), min_size=1, max_size=7)


@given(rows=examples(), size=st.integers(1, 8), row_limit=st.sampled_from([0, 10, 99]))
@settings(max_examples=150, deadline=None)
def test_every_option_is_read_after_its_own_tokens_in_the_batch_and_in_its_pieces(
    rows: list[Example], size: int, row_limit: int
) -> None:
    whole = collate(rows, row_limit)
    pieces = whole.split(size)
    assert [piece.num_examples for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    places = [(piece, index) for piece in pieces for index in range(piece.num_examples)]
    assert len(places) == len(rows)
    for number, (example, (piece, index)) in enumerate(zip(rows, places, strict=True)):
        expected = [wanted(example, option) for option in range(len(example.continuations))]
        expected += [[]] * (whole.counts.size(1) - len(expected))
        assert read(whole, number) == read(piece, index) == expected
        assert int(piece.answers[index]) == example.answer
    assert sum(piece.num_tokens for piece in pieces) == whole.num_tokens
    assert sum(piece.num_gold_tokens for piece in pieces) == whole.num_gold_tokens
    for piece in [whole, *pieces]:
        assert piece.input_ids.size(1) == max(length for extent in piece.extents for length in extent.lengths)
        assert len({*zip(piece.rows.tolist(), piece.positions.tolist(), strict=True)}) == piece.rows.numel()


def test_a_micro_batch_of_everything_is_the_batch() -> None:
    batch = collate(RAGGED)
    assert batch.split(4) == [batch]


def test_a_micro_batch_has_an_example() -> None:
    with pytest.raises(ValueError, match="at least one example, got 0"):
        collate(SINGLE).split(0)


def test_moving_keeps_everything() -> None:
    batch = collate(RAGGED)
    moved = batch.to(torch.device("meta"))
    assert moved.input_ids.device.type == moved.counts.device.type == "meta"
    assert moved.extents == batch.extents
    back = batch.to("cpu")
    assert torch.equal(back.input_ids, batch.input_ids)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_lightning_moves_it() -> None:
    from lightning.pytorch.utilities import move_data_to_device

    batch = move_data_to_device(collate(RAGGED), torch.device("cuda"))
    assert batch.reads.is_cuda
    assert torch.equal(batch.to("cpu").reads, collate(RAGGED).reads)
