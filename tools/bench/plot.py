"""A picture of the table: bars of time and of memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "two_forwards": "#888888",
    "textbook_mezo": "#c44e52",
    "fo": "#dd8452",
    "sparse": "#55a868",
    "hybrid": "#8172b3",
    "zo": "#4c72b0",
}
_MIB = 1 << 20


def draw(rows: Sequence[dict[str, Any]], title: str, file: Path) -> None:
    """Draw the rows of a run as a PNG.

    Args:
        rows: as `bench_step.py` writes them.
        title: says what was measured, and on what.
        file: where to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 1.6 + 0.42 * len(rows)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    left, right = figure.subplots(1, 2, sharey=True)
    relative = any(row["ratio_to_two_forwards"] is not None for row in rows)
    key = "ratio_to_two_forwards" if relative else "ms_per_step"
    _bars(left, rows, [row[key] for row in rows], [_time_label(row) for row in rows])
    left.set_xlabel("time of a step, relative to two bare forwards" if relative else "time of a step, ms")
    if relative:
        left.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    peaks = [row["peak_bytes_above_weights"] for row in rows]
    mebibytes = [None if peak is None else peak / _MIB for peak in peaks]
    _bars(right, rows, mebibytes, ["" if size is None else f"{size:,.0f}" for size in mebibytes])
    right.set_xlabel("peak memory above the weights, MiB")
    left.set_yticks(range(len(rows)), [row["name"] for row in rows])
    left.invert_yaxis()
    figure.savefig(file, dpi=120, format="png")


def _bars(axes: Axes, rows: Sequence[dict[str, Any]], values: Sequence[float | None], labels: Sequence[str]) -> None:
    colours = [_colour(row["name"]) for row in rows]
    bars = axes.barh(range(len(rows)), [value or 0.0 for value in values], color=colours)
    axes.bar_label(bars, labels, padding=4, fontsize=9)
    axes.margins(x=0.32)
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _time_label(row: dict[str, Any]) -> str:
    if row["ms_per_step"] is None:
        return row["error"] or ""
    ratio = row["ratio_to_two_forwards"]
    return f"{row['ms_per_step']:,.1f} ms" if ratio is None else f"{ratio:.2f} ({row['ms_per_step']:,.1f} ms)"


def _colour(name: str) -> str:
    return _COLOURS.get(name) or _COLOURS.get(name.split("_")[0], _COLOURS["zo"])
