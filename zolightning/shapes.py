"""Whether weights are those of a model, by their names and shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from zolightning.errors import ConfigurationError


def check_same_model(
    own: Mapping[str, Sequence[int]], saved: Mapping[str, Sequence[int]], needed: Collection[str]
) -> None:
    """Check that a checkpoint's weights are a model's.

    Args:
        own: the shape of each of the model's weights.
        saved: the shape of each of the checkpoint's.
        needed: the names of the weights that the checkpoint must have.

    Raises:
        ConfigurationError: naming the first weight that one of them has, and the other has not, or in another shape.
    """
    for name in sorted({*saved, *needed}):
        there, here = (list(shapes[name]) if name in shapes else None for shapes in (saved, own))
        if there != here:
            raise ConfigurationError(
                f"ckpt_path: the checkpoint is of another model: its {name} is {_told(there)}, this model's "
                f"{_told(here)}; set model.backbone, and the sizes of adapters, to what the run had"
            )


def _told(shape: list[int] | None) -> str:
    return "missing" if shape is None else f"of {shape}"
