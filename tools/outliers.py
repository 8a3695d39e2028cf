"""The first layer of a model with activation outliers: what Dominant-Layer ZO (arXiv 2606.05516) trains alone.

    python tools/outliers.py sample
    python tools/outliers.py meta-llama/Llama-2-7b-hf --dtype bfloat16 --text sentences.txt

An outlier is here, as in "Massive Activations in Large Language Models" (arXiv 2402.17762), an element of what a layer
hands on that exceeds 100 and 1,000 times the median. Small models have none: the layer is then the one at whose output
the largest element grows most over the median, and the suggestion a weaker one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from zolightning.models.loading import Dtype, load_model, load_tokenizer, max_positions
from zolightning.optim.blocks import layers_of

LARGE, TIMES_MEDIAN = 100.0, 1000.0
TEXTS = (
    "Summer is warm. Winter is cold.",
    "The committee met on Tuesday to discuss the budget, and agreed on most of it before noon.",
    "She opened the window, looked at the garden for a while, and went back to her book.",
    "Water boils at a lower temperature on a mountain, because the air presses less on it.",
)


@dataclass
class Level:
    """The largest and the median magnitude of what one place of a model hands on, each the largest of all texts."""

    largest: float = 0.0
    median: float = 0.0

    def note(self, hidden: Tensor) -> None:
        """Take the activations of one text into account [1, tokens, width]."""
        sizes = hidden.detach().float().abs()
        self.largest = max(self.largest, float(sizes.max()))
        self.median = max(self.median, float(sizes.median()))

    @property
    def ratio(self) -> float:
        """The largest over the median."""
        return self.largest / self.median

    @property
    def massive(self) -> bool:
        """Whether there is an outlier."""
        return self.largest > LARGE and self.ratio >= TIMES_MEDIAN


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Level]]:
    """Note, in all forwards within, what goes into the first layer, and what comes out of each."""
    layers = [model.get_submodule(path) for path in layers_of(model)]
    levels = [Level() for _ in range(len(layers) + 1)]

    def begins(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        levels[0].note(args[0] if args else kwargs["hidden_states"])

    def ends(level: Level) -> Any:
        return lambda _module, _inputs, output: level.note(output if isinstance(output, Tensor) else output[0])

    handles = [layers[0].register_forward_pre_hook(begins, with_kwargs=True)]
    handles += [layer.register_forward_hook(ends(level)) for layer, level in zip(layers, levels[1:], strict=True)]
    try:
        yield levels
    finally:
        for handle in handles:
            handle.remove()


def first_outlier(levels: Sequence[Level]) -> int:
    """Return the number of the first layer with an outlier, or, if none has, where the ratio grows most.

    Args:
        levels: what goes into the first layer, and what comes out of each.
    """
    massive = [layer for layer, level in enumerate(levels[1:]) if level.massive]
    return massive[0] if massive else max(range(len(levels) - 1), key=lambda layer: growth(levels, layer))


def growth(levels: Sequence[Level], layer: int) -> float:
    """Return the factor by which a layer raises the largest element over the median."""
    return levels[layer + 1].ratio / levels[layer].ratio


def report(levels: Sequence[Level], console: Console) -> None:
    """Print a row for each layer, and what to set."""
    chosen = first_outlier(levels)
    table = Table("layer", "largest", "median", "largest / median", "growth", "")
    for layer, level in enumerate(levels[1:]):
        cells = f"{level.largest:,.1f}", f"{level.median:.3g}", f"{level.ratio:,.0f}", f"x {growth(levels, layer):.2f}"
        table.add_row(str(layer), *cells, "<-" if layer == chosen else "")
    console.print(table)
    if levels[chosen + 1].massive:
        console.print(f"The first layer with activation outliers is {chosen}. To train it alone, set in the recipe:")
    else:
        console.print(
            f"No layer has activation outliers (above {LARGE:,.0f} and {TIMES_MEDIAN:,.0f} times the median). The "
            f"largest element grows most in layer {chosen}, a weak suggestion. To train it alone, set in the recipe:"
        )
    console.print(f"\nmodel:\n  scheme: full\n  layers: [{chosen}]", markup=False, highlight=False)


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, run the model on some texts, and report.

    Args:
        words: of the command line; None takes sys.argv.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", help="hub id or folder of a causal language model, or sample")
    parser.add_argument("--text", type=Path, help="a file with a text a line; by default four sentences")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(words)
    lines = TEXTS if arguments.text is None else arguments.text.read_text(encoding="utf-8").splitlines()
    texts = [line for line in lines if line.strip()]
    if not texts:
        parser.error(f"--text: {arguments.text} holds no text")
    tokenizer: Any = load_tokenizer(arguments.backbone)
    model = load_model(arguments.backbone, arguments.dtype, "sdpa")
    cast("nn.Module", model).to(arguments.device)
    limit = max_positions(model.config)
    with torch.no_grad(), watched(model) as levels:
        for text in track(texts, "texts", console=Console(stderr=True)):
            ids = tokenizer(text, return_tensors="pt").input_ids[:, :limit]
            model(input_ids=ids.to(arguments.device), use_cache=False)
    report(levels, Console())


if __name__ == "__main__":
    main()
