"""Tables in the terminal: no frames and few colors, so that a pipe and 80 columns get the same text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from tokpack.report.tables import Sum, Table
from tokpack.terminal.activity import counted

READABLE = 96
"""Columns of running text."""
FACTS = 120
"""Columns of facts and commands."""
WIDE = 110
"""Columns from which tables show all they have."""
GOOD, QUIET, BAD = "green", "dim", "red"
TONES = {"": "", "good": GOOD, "bad": BAD}


def plain_table(title: str, *columns: str, words: int = 1) -> Grid:
    """A table without a frame; all but the first `words` columns are numbers."""
    table = Grid(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style=QUIET,
        show_header=any(columns),
    )
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if number < words else "right", no_wrap=number >= words)
    return table


class DrawnTable:
    """A table of the report for the terminal.

    `one_line`: a line of the table is one of the screen, without the columns for wide terminals; the quiet
    words get what is left of it. `head`: the names of the columns are shown.
    """

    def __init__(self, table: Table, *, one_line: bool = False, head: bool = True) -> None:
        self.table, self.one_line, self.head = table, one_line, head

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self.table
        wide = options.max_width >= WIDE and not self.one_line
        shown = [n for n, of in enumerate(table.columns) if wide or not of.wide]
        drawn = plain_table(table.title)
        drawn.show_header = self.head
        for column in (table.columns[n] for n in shown):
            justify, whole = "left" if column.words else "right", self.one_line or not column.words
            drawn.add_column(Text(column.name), justify=justify, no_wrap=whole)  # type: ignore[arg-type]
        quiet = any(line.cells[0].about for line in table.lines)
        if quiet:
            drawn.add_column(table.about)
        if self.one_line and quiet:
            last = drawn.columns[-1]
            drawn.expand, last.ratio, last.no_wrap, last.overflow = True, 1, True, "ellipsis"
        for line in table.lines:
            cells = [Text(line.cells[n].text, style=TONES[line.cells[n].tone]) for n in shown]
            cells += [Text(line.cells[0].about, style=f"not bold {QUIET}")] if quiet else []
            drawn.add_row(*cells, style="bold" if line.strong else "")
        yield drawn
        if table.more:
            yield Text(f"and {counted(table.more, table.noun)} more; --json has all", style=QUIET)


def draw_sums(title: str, sums: list[Sum]) -> Grid:
    """The sums of a ledger, one line each."""
    table = plain_table(title, "", "", words=2)
    for each in sums:
        table.add_row(
            each.name, Text(" ".join(map(str, each.terms)) + (f"; {each.about}" if each.about else ""))
        )
    return table


class Command(str):
    """To be pasted: where it is longer than the screen is wide, lines that a shell takes for one."""

    __slots__ = ()

    def lines(self, width: int) -> list[str]:
        lines: list[str] = []
        for part in _words(self):
            if lines and len(lines[-1]) + len(part) + len(" ") <= width - len(" \\"):
                lines[-1] += f" {part}"
            else:
                lines.append(part)
        return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _words(command: str) -> list[str]:
    """As the shell has them, but each flag with its value."""
    words: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if not word.startswith("-") and words and re.fullmatch(r"--?[\w-]+", words[-1]):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


class PastedCommand:
    """A command on lines of its own, as wide as the screen."""

    def __init__(self, command: str) -> None:
        self.command = Command(command)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.command.lines(options.max_width):
            yield Text(line, no_wrap=True, overflow="ignore")


class FactsGrid:
    """Names and what there is to say about them, where there is anything. No line is filled up with spaces,
    which after a backslash would end a command."""

    def __init__(self, facts: Sequence[tuple[str, str]]) -> None:
        self.facts = [fact for fact in facts if fact[1]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = max((cell_len(name) for name, _ in self.facts), default=0)
        width = max(options.max_width - names - 2, 1)
        for name, value in self.facts:
            whole = Text(value)
            lines = [Text(line) for line in value.lines(width)] if isinstance(value, Command) else None
            for number, line in enumerate(lines or whole.wrap(console, width)):
                label = (name if number == 0 else "").ljust(names)
                text = Text(no_wrap=True, overflow="ignore")
                yield text.append(f"{label}  ", QUIET).append_text(line)


def spaced(parts: list[RenderableType]) -> Group:
    """One below the other, an empty line after each."""
    return Group(*(item for part in parts for item in (part, Text())))
