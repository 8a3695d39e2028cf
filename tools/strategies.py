"""Print the table of all strategies in Markdown, from the classes themselves.

python tools/strategies.py
"""

from __future__ import annotations

from zolightning import strategies
from zolightning.strategies.base import Card, Strategy


def cards() -> dict[str, Card]:
    """Return the card of every strategy by name, zeroth-order ones first, in the order of the alphabet."""
    classes = (getattr(strategies, name) for name in strategies.__all__)
    found = {one.__name__: one.card for one in classes if issubclass(one, Strategy) and one.card is not None}
    return dict(sorted(found.items(), key=lambda item: (item[0].startswith("FO"), item[0])))


def table() -> str:
    """Return the table."""
    head = ["Strategy", *(field.capitalize() for field in Card._fields)]
    rows = [[f"`{name}`", *card] for name, card in cards().items()]
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    print(table())
