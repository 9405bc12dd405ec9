"""Tables of files, and of the values of a column: one model, drawn by the terminal and by the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokpack.printable import one_line
from tokpack.report.data_words import fit
from tokpack.report.words import share

MOST, MOST_REASONS = 500, 3


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    value: float | None = None
    """What a column is sorted by, where that is not the text."""


@dataclass(frozen=True, slots=True)
class Table:
    """A title, names of columns, and lines: the first cell names the line, the others are figures, but for
    the last `words` ones."""

    title: str
    columns: tuple[str, ...]
    lines: list[list[Cell]]
    words: int = 0
    more: int = 0
    """Lines that are left out."""


def sources_table(data: dict[str, Any], most: int = MOST) -> Table:
    """Lengths, trained share and reasons of each file, most packed tokens first."""
    vocabulary, ledger = data.get("vocabulary"), data["ledger"]["sources"]
    fits = {line["name"]: fit(line) for line in vocabulary["sources"]} if vocabulary else {}
    lines = [line | {"dropped": ledger[line["name"]]["documents"]["dropped"]} for line in data["sources"]]
    lines.sort(key=lambda line: (-line["packed"], line["name"]))
    return _groups("Lengths by file", "file", lines, most, fits)


def by_table(data: dict[str, Any], most: int = MOST) -> Table | None:
    """The same by the values of a column of the data; None where none was asked for."""
    by = data.get("by")
    if not by:
        return None
    column = one_line(by["column"], 40)
    table = _groups(f"By {column}", column, by["values"], most, {})
    return Table(table.title, table.columns, table.lines, table.words, table.more + by["more"])


def _groups(title: str, noun: str, lines: list[dict[str, Any]], most: int, fits: dict[str, str]) -> Table:
    columns = (noun, "kept", "median", "90%", "99%", "longest", "trained")
    return Table(
        title,
        (*columns, *(("bytes/token",) if fits else ()), "left out"),
        [_line(line, fits) for line in lines[:most]],
        words=1,
        more=max(0, len(lines) - most),
    )


def _line(line: dict[str, Any], fits: dict[str, str]) -> list[Cell]:
    figures = [Cell(f"{line[key]:,}", line[key]) for key in ("documents", "p50", "p90", "p99", "max")]
    trained = Cell(share(line["trained"], line["packed"]), line["trained_share"])
    own = [Cell(fits.get(line["name"], ""))] if fits else []
    return [Cell(one_line(line["name"], 60)), *figures, trained, *own, Cell(reasons(line["dropped"]))]


def reasons(dropped: dict[str, int]) -> str:
    """`40 exact_duplicate, 12 overlong`, most first."""
    most = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count:,} {one_line(reason, 30)}" for reason, count in most[:MOST_REASONS]]
    rest = sum(count for _, count in most[MOST_REASONS:])
    return ", ".join(told + ([f"{rest:,} others"] if rest else []))


def grouping_words(data: dict[str, Any]) -> str:
    """Which columns `--by` could take; empty where one was given, or none has few values."""
    columns = [] if data.get("by") else data.get("grouping", [])
    if not columns:
        return ""
    names = " or ".join(one_line(name, 40) for name in columns[:3])
    return f"--by {names} tells the values of that column apart"
