"""One model of tables: made once from figures, drawn by the terminal and by the page, which decide
nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from tokpack.frozen import frozen


@frozen
class Column:
    name: str
    words: bool = False
    """Words stand to the left and may be broken; figures stand to the right and may not."""
    code: bool = False
    """Words that a user types or a program knows."""
    wide: bool = False
    """Left out where a terminal is narrow."""


@frozen
class Cell:
    text: str
    value: float | None = None
    """What the column is sorted by, where that is not the text."""
    about: str = ""
    """Quiet words about the line, in its first cell: below the text, in a terminal at the end of the line."""
    tone: Literal["", "good", "bad"] = ""


@frozen
class Line:
    cells: list[Cell]
    strong: bool = False


@frozen
class Table:
    """Columns and lines; a cell of each line names it, most often the first."""

    title: str
    columns: list[Column]
    lines: list[Line]
    about: str = ""
    """What the quiet words are, where it is not plain from them."""
    noun: str = "line"
    more: int = 0
    """Lines that are not here."""
    named: int = 0
    """The column of the cells that name their lines."""

    def first(self, most: int) -> Table:
        """With at most so many lines."""
        return replace(self, lines=self.lines[:most], more=self.more + max(0, len(self.lines) - most))


def number(value: int) -> Cell:
    """A whole number."""
    return Cell(f"{value:,}", value)


@frozen
class Term:
    sign: str
    amount: int
    word: str

    def __str__(self) -> str:
        return f"{self.sign} {self.amount:,} {self.word}".strip()


@frozen
class Sum:
    """A total, then the terms it is made of."""

    name: str
    terms: list[Term]
    about: str = ""
