"""Tables of the terminal: no frames and few colors, so that a pipe and 80 columns get the same text."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tokpack.report import groups

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


def draw_table(table: groups.Table) -> RenderableType:
    """A table of the report for the terminal."""
    figures = len(table.columns) - table.words
    drawn = plain_table(table.title, *table.columns)
    for column in drawn.columns[figures:]:
        column.justify, column.no_wrap = "left", False
    for line in table.lines:
        drawn.add_row(*(Text(cell.text) for cell in line))
    if not table.more:
        return drawn
    return Group(drawn, Text(f"and {table.more:,} more; --json has all", style=QUIET))


def facts_grid(facts: list[tuple[str, str]]) -> Table:
    """Names and what there is to say about them."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=QUIET, no_wrap=True)
    for name, value in facts:
        grid.add_row(name, Text(value))
    return grid
