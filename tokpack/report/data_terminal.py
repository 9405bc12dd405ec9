"""What the data is made of, in the terminal: facts for the first screen, tables behind it."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tokpack.printable import one_line
from tokpack.report.data_words import fit, language_words, ranks_words, vocabulary_words
from tokpack.report.tables import QUIET, plain_table
from tokpack.report.words import share

MOST_FILES, MOST_LONGEST = 20, 5


def data_facts(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Vocabulary, languages, ranks: where the report has them."""
    facts = []
    if vocabulary := data.get("vocabulary"):
        facts.append(("vocabulary", vocabulary_words(vocabulary)))
    if languages := data.get("languages"):
        facts.append(("languages", language_words(languages)))
    if ranks := data.get("ranks"):
        facts.append(("ranks", ranks_words(ranks)))
    return facts


def data_details(data: dict[str, Any]) -> list[RenderableType]:
    """Lengths by file, what other capacities would cut, the longest documents."""
    parts: list[RenderableType] = []
    if len(data.get("sources", [])) > 1:
        parts.append(lengths_table(data))
    if data.get("truncation") and not data.get("cost"):
        parts.append(truncation_table(data))
    if data.get("longest"):
        parts.append(longest_table(data))
    return parts


def lengths_table(data: dict[str, Any]) -> RenderableType:
    """Kept documents of each file, most packed tokens first."""
    vocabulary = data.get("vocabulary")
    fits = {line["name"]: fit(line) for line in vocabulary["sources"]} if vocabulary else {}
    last = ("bytes/token",) if fits else ()
    table = plain_table("Lengths by file", "file", "half", "90%", "99%", "longest", "trained", *last)
    lines = sorted(data["sources"], key=lambda line: (-line["packed"], line["name"]))
    for line in lines[:MOST_FILES]:
        lengths = [f"{line[key]:,}" for key in ("p50", "p90", "p99", "max")]
        name = Text(one_line(line["name"], 40))
        trained = share(line["trained"], line["packed"])
        table.add_row(name, *lengths, trained, *([fits.get(line["name"], "")] if fits else []))
    if len(lines) <= MOST_FILES:
        return table
    return Group(table, Text(f"and {len(lines) - MOST_FILES} more files; --json has all", style=QUIET))


def truncation_table(data: dict[str, Any]) -> Table:
    table = plain_table("Cut at other lengths", "length", "documents", "tokens", "share")
    table.columns[0].justify = "right"
    for line in data["truncation"]:
        style = "bold" if line["capacity"] == data["capacity"] else ""
        figures = f"{line['documents']:,}", f"{line['tokens']:,}", share(line["share"], 1, 2)
        table.add_row(f"{line['capacity']:,}", *figures, style=style)
    return table


def longest_table(data: dict[str, Any]) -> Table:
    table = plain_table("Longest documents, as they came", "file and row", "document", "tokens", "")
    table.columns[-1].justify = "left"
    for line in data["longest"][:MOST_LONGEST]:
        place = Text(f"{one_line(line['source'], 40)}:{line['row']}")
        fate = Text(one_line(line["fate"], 24), style=QUIET)
        table.add_row(place, str(line["doc_id"]), f"{line['tokens']:,}", fate)
    return table
