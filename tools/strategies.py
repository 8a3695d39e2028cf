"""Print the table of all strategies in Markdown, from the classes themselves.

python tools/strategies.py
"""

from __future__ import annotations

from tables import table
from zolightning import strategies
from zolightning.strategies.base import Card, Strategy


def cards() -> dict[str, Card]:
    """Return the card of every strategy by name, zeroth-order ones first, in the order of the alphabet."""
    classes = (getattr(strategies, name) for name in strategies.__all__)
    found = {one.__name__: one.card for one in classes if issubclass(one, Strategy) and one.card is not None}
    return dict(sorted(found.items(), key=lambda item: (item[0].startswith("FO"), item[0])))


def strategies_table() -> str:
    """Return the table."""
    head = ["Strategy", *(field.capitalize() for field in Card._fields)]
    return table(head, [[f"`{name}`", *card] for name, card in cards().items()])


if __name__ == "__main__":
    print(strategies_table())
