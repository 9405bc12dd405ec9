"""A chat data set with the mess of real ones, every fault of known place: for demos, tests and benchmarks.

    python examples/make_demo_data.py demo/chat.jsonl
    python examples/make_demo_data.py small.jsonl --documents 2000 --seed 7

Writes OUT.jsonl, a row `{"messages": [{"role", "content"}, ...], "source": name}` a line, with a few blank
lines, and OUT.truth.json:

    lines        non-blank lines; line numbers count from 1 and include the blank ones
    clean        lines without any fault
    categories   name -> count and lines; every other line is in exactly one
    pairs        copies category -> [line of the copy, line of its original]; originals come first
    traits       of the clean lines: multi_turn, system_prompt, and language_xx; these overlap
    near_jaccard least similarity of a near duplicate and its original, over word 5-grams

No two clean lines have the same text or answers, and with seed 0 none are near duplicates (0.8 of the token
5-grams). Same arguments, same bytes, on every machine and Python version. 20,000 lines take about 3 seconds:
20 MB, 5 million tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

from demo_text import Document, Writer
from demo_text.draw import Draw
from demo_text.mess import BROKEN, COPIES, FAULTS, NEAR_FLOOR, Message

CLEAN = "clean"
SOURCES = ("web_crawl", "forum_dump", "support_export", "partner_feed", "old_release")
"""Where copies and faulty rows say they come from."""


class Row:
    """One line to be: its category, its text or messages, and the row it copies."""

    def __init__(
        self, category: str, messages: list[Message], source: str, original: Row | None = None
    ) -> None:
        self.category, self.messages, self.source, self.original = category, messages, source, original
        self.text: str | None = None
        self.document: Document | None = None


def count_of(share: float, documents: int) -> int:
    return max(1, round(share * documents))


def normalized(messages: list[Message]) -> str:
    """What two documents share when they differ by white space, letter case or Unicode form alone."""
    text = "\n".join(message["content"] or "" for message in messages)
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def make_rows(documents: int, seed: int) -> list[Row]:
    """All rows, in file order."""
    draw = Draw(seed)
    writer = Writer(draw)
    shares = {name: share for table in (COPIES, FAULTS, BROKEN) for name, (share, *_) in table.items()}
    counts = {name: count_of(share, documents) for name, share in shares.items()}
    clean = clean_rows(writer, documents - sum(counts.values()))
    rows = [*clean, *copies(writer, clean, counts)]
    for category, (_, make) in FAULTS.items():
        rows += [Row(category, make(writer), draw.pick(SOURCES)) for _ in range(counts[category])]
    for category, (_, damage) in BROKEN.items():
        for _ in range(counts[category]):
            row = Row(category, list(writer.document().messages), draw.pick(SOURCES))
            row.text = damage(writer, as_json(row))
            rows.append(row)
    return originals_first(draw.shuffled(rows))


def clean_rows(writer: Writer, count: int) -> list[Row]:
    """Rows of which no two have the same text, nor the same answers unless these are as short as a label."""
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < count:
        document = writer.document()
        answers = normalized([message for message in document.messages if message["role"] == "assistant"])
        keys = {normalized(document.messages), *([answers] if len(answers) > 30 else [])}
        if keys & seen:
            continue
        seen |= keys
        row = Row(CLEAN, list(document.messages), document.source)
        row.document = document
        rows.append(row)
    return rows


def copies(writer: Writer, clean: list[Row], counts: dict[str, int]) -> list[Row]:
    """Copies of clean rows. A row has copies of one category only; exact copies may share an original."""
    draw = writer.draw
    deck, rows = draw.shuffled(clean), []
    for category, (_, copy, fits) in reversed(COPIES.items()):  # the choosiest first
        pool = [row for row in deck if row.document is not None and fits(row.document)][: counts[category]]
        if not pool:
            raise SystemExit(f"no document fits {category}: ask for more --documents")
        if category == "exact_duplicate":
            pool = pool[: max(1, len(pool) * 2 // 3)]
        chosen = {id(row) for row in pool}
        deck = [row for row in deck if id(row) not in chosen]
        for place in range(counts[category]):
            original = pool[place % len(pool)]
            source = original.source if draw.chance(0.5) else draw.pick(SOURCES)
            rows.append(Row(category, copy(writer, original.messages), source, original))
    return rows


def originals_first(rows: list[Row]) -> list[Row]:
    """Move each original before its copies, so that "keep the first" keeps it."""
    places: dict[int, int] = {id(row): place for place, row in enumerate(rows)}
    for row in list(rows):
        original = row.original
        if original is None or places[id(original)] < places[id(row)]:
            continue
        here, there = places[id(row)], places[id(original)]
        rows[here], rows[there] = original, row
        places[id(original)], places[id(row)] = here, there
    return rows


def as_json(row: Row, *, escape: bool = False) -> str:
    return json.dumps({"messages": row.messages, "source": row.source}, ensure_ascii=escape)


def blank_places(draw: Draw, count: int) -> set[int]:
    """Rows that a blank line follows: about one in 4,000, and the last."""
    return {count - 1, *(draw.integer(0, count - 1) for _ in range(count // 4000))}


def write(out: Path, rows: list[Row], seed: int) -> dict[str, Any]:
    """Write the data and its truth; returns the truth."""
    draw = Draw(seed + 1)
    blank = blank_places(draw, len(rows))
    number, lines, numbers = 0, [], {}
    for place, row in enumerate(rows):
        number += 1
        numbers[id(row)] = number
        lines.append(row.text if row.text is not None else as_json(row, escape=draw.chance(0.1)))
        if place in blank:
            number += 1
            lines.append("")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    truth = truth_of(rows, numbers)
    out.with_suffix(".truth.json").write_text(json.dumps(truth) + "\n", encoding="utf-8", newline="\n")
    return truth


def truth_of(rows: list[Row], numbers: dict[int, int]) -> dict[str, Any]:
    found: dict[str, list[int]] = {name: [] for table in (COPIES, FAULTS, BROKEN) for name in table}
    pairs: dict[str, list[list[int]]] = {name: [] for name in COPIES}
    traits: dict[str, list[int]] = {}
    for row in rows:
        line = numbers[id(row)]
        if row.original is not None:
            pairs[row.category].append([line, numbers[id(row.original)]])
        if row.category != CLEAN:
            found[row.category].append(line)
        elif row.document is not None:
            for trait in traits_of(row.document):
                traits.setdefault(trait, []).append(line)
    return {
        "lines": len(rows),
        "clean": sum(row.category == CLEAN for row in rows),
        "categories": {name: {"count": len(lines), "lines": lines} for name, lines in found.items()},
        "pairs": pairs,
        "traits": {name: {"count": len(traits[name]), "lines": traits[name]} for name in sorted(traits)},
        "near_jaccard": NEAR_FLOOR,
    }


def traits_of(document: Document) -> list[str]:
    traits = [f"language_{document.language}"]
    if document.turns > 1:
        traits.append("multi_turn")
    if document.has_system:
        traits.append("system_prompt")
    return traits


def table(truth: dict[str, Any]) -> str:
    """The categories with their counts, for people."""
    rows = [(CLEAN, truth["clean"])]
    rows += [(name, entry["count"]) for name, entry in truth["categories"].items()]
    text = [f"{name:<24}{count:>8,}{count / truth['lines']:>9.2%}" for name, count in rows]
    text.append(f"{'lines':<24}{truth['lines']:>8,}{1:>9.2%}")
    text.append("of the clean lines:")
    text += [f"  {name:<22}{entry['count']:>8,}" for name, entry in truth["traits"].items()]
    return "\n".join(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Write a chat data set with known faults, and the truth beside it."
    )
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--documents", type=int, default=20_000, help="lines, faulty ones included (20000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.documents < 100:
        parser.error("--documents: at least 100, so that every fault has its place")
    truth = write(arguments.out, make_rows(arguments.documents, arguments.seed), arguments.seed)
    print(table(truth), file=sys.stderr)
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
