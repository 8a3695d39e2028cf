"""Turning the parser's messages into ones that name the nearest right thing."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import get_args

from zolightning import callbacks, strategies, tasks
from zolightning.models.schemes import SchemeName

_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")


def suggest(message: str) -> str:
    """Return an error message of the parser, led by a line with the nearest names if a class name is unknown.

    Example:
        >>> print(suggest("Expected a dot import path string: SparseMezo").split(" Strategies:")[0])
        there is no class SparseMezo; did you mean SparseMeZO?
    """
    unknown = _UNKNOWN_CLASS.search(message)
    if unknown is None:
        return message
    name = unknown.group(1)
    concrete = [known for known in strategies.__all__ if known not in {"Strategy", "FirstOrder", "ZerothOrder"}]
    families = {
        "Strategies": concrete,
        "Tasks": [known for known in tasks.__all__ if known != "Task"],
        "Callbacks": list(callbacks.__all__),
        "Schemes": list(get_args(SchemeName)),
    }
    lowered = {known.lower(): (known, family) for family, names in families.items() for known in names}
    nearest = [lowered[match] for match in get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    if not nearest:
        listing = "; ".join(f"{family}: {', '.join(names)}" for family, names in families.items())
        return f"there is no class {name}. {listing}. A class of your own is named with its module, mymodule.{name}"
    if name in {known for known, _ in nearest}:
        return f"{name} is a class, but not one that can stand here. {message}"
    meant = " or ".join(known for known, _ in nearest)
    family = nearest[0][1]
    return f"there is no class {name}; did you mean {meant}? {family}: {', '.join(families[family])}"
