"""The bench runs on a tiny model, and its yardstick is what it says it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

import bench_step
from bench.contenders import Contender, contenders
from bench.measure import Bench
from bench.shapes import build, config_of
from bench.textbook import TextbookMeZO, own_sequences, same_sequences
from bench.workload import Workload, random_work
from tests.conftest import ROOT
from tests.helpers.models import Quadratic, tiny_llama
from zolightning.models.batch import collate
from zolightning.models.question import Example

CPU = torch.device("cpu")
NAMES = [contender.name for contender in contenders()]


@pytest.fixture
def shape(tmp_path: Path) -> str:
    """A folder with a configuration and no weights."""
    tiny_llama().config.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def run(*arguments: str) -> list[dict[str, Any]]:
    bench_step.main([*arguments, "--device", "cpu", "--json", "rows.json"])
    rows: list[dict[str, Any]] = json.loads(Path("rows.json").read_text())
    return rows


def test_every_contender_has_a_row_with_all_figures_and_a_bar(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run("--shape", shape, "--batch", "2", "--length", "8", "--steps", "2", "--plot", "bars.png")
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        assert row["error"] is None
        assert min(row[key] for key in ("ms_per_step", "peak_bytes_above_weights", "bytes_per_weight")) > 0, row
        assert len(row["ms_of_each_step"]) == 2
        assert row["setting"]["batch"] == 2
        assert row["setting"]["length"] == 8
    by_name = {row["name"]: row for row in rows}
    assert by_name["two_forwards"]["ratio_to_two_forwards"] == 1.0
    assert by_name["textbook_mezo"]["speedup_over_textbook"] == 1.0
    sparse = by_name["sparse_mezo_in_forward_rademacher"]
    assert (sparse["strategy"], sparse["probe"], sparse["distribution"]) == ("SparseMeZO", "in_forward", "rademacher")
    assert Path("bars.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)
    assert "kernels compiled in" in printed


def test_rows_are_chosen_by_name(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run("--shape", shape, "--batch", "2", "--length", "8", "--steps", "1", "--only", "fo_sgd,two_forwards")
    assert [row["name"] for row in rows] == ["two_forwards", "fo_sgd"]
    assert rows[0]["speedup_over_textbook"] is None
    with pytest.raises(SystemExit):
        run("--shape", shape, "--only", "zo_atom")
    assert "there is no zo_atom" in capsys.readouterr().err


def test_real_rows_have_a_sequence_for_each_option_in_the_textbook_alone(shared_data: Path, stories: Path) -> None:
    data = ("--data", str(shared_data / "SST-2"), "--options", " bad", " good")
    rows = run("--shape", str(stories), *data, "--batch", "4", "--steps", "1", "--only", "two_forwards,textbook_mezo")
    sequences, length = rows[0]["setting"]["textbook_input"]
    assert (sequences, length % 8) == (8, 0)
    assert rows[0]["setting"]["length"] <= length


def test_a_textbook_step_is_algorithm_1() -> None:
    model, reference = Quadratic(torch.float32), Quadratic(torch.float32)
    loss = TextbookMeZO(model, lr=1e-2, eps=1e-3, seed=7).step(model)

    seed = int(torch.randint(1_000_000_000, (), generator=torch.Generator().manual_seed(7)))
    torch.manual_seed(seed)
    starts = [parameter.detach().clone() for parameter in reference.parameters()]
    directions = [torch.normal(0.0, 1.0, start.shape) for start in starts]
    losses = []
    for scale in (1e-3, -1e-3):
        for parameter, start, z in zip(reference.parameters(), starts, directions, strict=True):
            parameter.data = start + scale * z
        losses.append(float(reference().detach()))
    moved = [start - 1e-2 * (losses[0] - losses[1]) / 2e-3 * z for start, z in zip(starts, directions, strict=True)]

    assert float(loss) == pytest.approx(losses[0])
    torch.testing.assert_close(list(model.parameters()), [nn.Parameter(one) for one in moved], rtol=1e-4, atol=1e-5)


def test_the_textbook_computes_our_loss() -> None:
    model = tiny_llama(torch.float64)
    work = random_work(model, 3, 9, CPU)
    torch.testing.assert_close(work.textbook_loss(), work.loss())
    examples = [Example([1, 5, 9, 11], [[20, 21], [22]], [0, 0], 0), Example([1, 8], [[30, 31, 32], [33]], [1, 0], 1)]
    batch = collate(examples)
    ours = Workload(model, batch, own_sequences(examples))
    assert ours.textbook.input_ids.shape == (4, 8)
    torch.testing.assert_close(ours.textbook_loss(), ours.loss())
    torch.testing.assert_close(same_sequences(batch).loss(model), ours.loss())


@pytest.mark.parametrize(
    ("shape", "weights"),
    [
        ("llama-15m", 15_191_712),
        ("llama-2-7b", 6_738_415_616),
        ("llama-3-8b", 8_030_261_248),
        ("mistral-7b", 7_241_732_096),
        ("opt-125m", 125_239_296),
        ("opt-13b", 12_853_473_280),
        ("qwen3-8b", 8_190_735_360),
    ],
)
def test_shapes_have_the_published_number_of_weights(shape: str, weights: int) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = cast("Any", AutoModelForCausalLM).from_config(config_of(shape))
    assert sum(parameter.numel() for parameter in model.parameters()) == weights


def test_random_weights_are_made_in_their_dtype_and_rotary_frequencies_are_not() -> None:
    model = build("llama-15m", "bfloat16", CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    frequencies = model.get_buffer("model.rotary_emb.inv_freq")
    torch.testing.assert_close(frequencies, 10_000.0 ** (-torch.arange(0, 48, 2) / 48))


def test_the_bytes_of_the_textbook_in_half_precision_are_those_counted_in_the_released_code() -> None:
    work = random_work(tiny_llama(torch.float16), 2, 8, CPU)
    counts, textbook = work.counts(), contenders()[1]
    forwards = 2 * 2 * (counts.used + counts.head) / counts.total
    assert textbook.bytes_per_weight(counts) - forwards == 64
    assert counts.used + counts.head == counts.total


def test_peak_memory_counts_what_is_kept_and_what_a_step_needs() -> None:
    def start(_: Workload) -> Any:
        kept = torch.zeros(1 << 20, dtype=torch.uint8)
        return lambda: int(kept.new_ones(2 << 20)[0])

    work = random_work(tiny_llama(), 2, 8, CPU)
    (result,) = Bench(work).run([Contender("one", start, lambda _: 0.0)], 1, lambda _: None)
    assert result.peak == 3 << 20


def test_a_contender_that_does_not_fit_says_so_and_the_others_go_on() -> None:
    def start(_: Workload) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    work = random_work(tiny_llama(), 2, 8, CPU)
    large, small = Contender("large", start, lambda _: 0.0), contenders()[0]
    lost, found = Bench(work).run([large, small], 2, lambda _: None)
    assert (lost.error, lost.median, lost.peak) == ("out of memory", None, None)
    assert len(found.milliseconds) == 2
    row = bench_step.rows_of([lost, found], work, "float32", {})[0]
    assert (row["error"], row["ms_per_step"], row["speedup_over_textbook"]) == ("out of memory", None, None)


def test_the_tool_imports_where_the_command_lines_dependencies_are_absent() -> None:
    absent = "sys.modules.update(dict.fromkeys(['datasets', 'jsonargparse', 'lightning', 'matplotlib']))"
    code = f"import sys; {absent}; sys.path.insert(0, 'tools'); import bench_step"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# Numbers of float32 that a strategy keeps for every weight.
KEPT = {
    "zo_sgd_in_forward_gaussian": 0,
    "sparse_mezo_in_forward_gaussian": 0,
    "zo_sgd_random": 0,
    "zo_sgd_snip": 1 / 32,
    "zo_sgd_sign": 0,
    "zo_sgd_conservative": 0,
    "blockwise_zo": 0,
    "zo_sgd_momentum": 1,
    "zo_adam": 2,
}


@pytest.mark.slow
def test_a_step_holds_what_two_forwards_do_and_the_documented_state() -> None:
    """With four mebibytes for scratch and pieces of a weight."""
    work = random_work(build("llama-15m", "float32", CPU), 16, 64, CPU)
    chosen = [one for one in contenders() if one.name in KEPT or one.name == "two_forwards"]
    results = Bench(work).run(chosen, 0, lambda _: None)
    peaks = {result.contender.name: result.peak or 0 for result in results}
    for name, numbers in KEPT.items():
        state = 4 * numbers * work.counts().total
        assert state < peaks[name] <= peaks["two_forwards"] + state + (4 << 20), name
