"""What the data is made of, in the terminal: facts for the first screen, tables behind it."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tokpack.printable import one_line
from tokpack.report.data_words import language_words, ranks_words, vocabulary_words
from tokpack.report.groups import by_table, sources_table
from tokpack.report.tables import QUIET, draw_table, plain_table
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
        parts.append(draw_table(sources_table(data, MOST_FILES)))
    if by := by_table(data, MOST_FILES):
        parts.append(draw_table(by))
    if data.get("truncation") and not data.get("cost"):
        parts.append(truncation_table(data))
    if data.get("longest"):
        parts.append(longest_table(data))
    return parts


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
