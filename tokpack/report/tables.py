"""Tables of the terminal: no frames and few colours, so that a pipe and 80 columns get the same text."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

READABLE = 96
"""Columns of running text."""
FACTS = 120
"""Columns of facts and commands."""
WIDE = 110
"""Columns from which tables show all they have."""
GOOD, QUIET, BAD = "green", "dim", "red"


def plain_table(title: str, *columns: str, words: int = 1) -> Table:
    """A table without a frame; all but the first `words` columns are numbers."""
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style=QUIET,
        show_header=any(columns),
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < words else "right", no_wrap=number >= words)
    return table


def facts_grid(facts: list[tuple[str, str]]) -> Table:
    """Names and what there is to say about them."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=QUIET, no_wrap=True)
    for name, value in facts:
        grid.add_row(name, Text(value))
    return grid
