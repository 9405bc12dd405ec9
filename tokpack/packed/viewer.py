"""Show packed rows as a person reads them: document boundaries, trained tokens in color."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.rule import Rule
from rich.text import Text

from tokpack.encoding.trained_runs import trained_runs
from tokpack.errors import TokpackError, UsageError, near_matches
from tokpack.on_disk.ledger import documents_by_source
from tokpack.on_disk.reasons import HELD_OUT
from tokpack.packed.folder import PackedFolder
from tokpack.schema import (
    COPIES,
    IGNORE_INDEX,
    IS_DESIRABLE,
    PAIR_WIDTH,
    VALIDATION,
    is_preference,
    pair_width,
)
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import printable

TRAINED_STYLE = "bold green"
MASKED_STYLE = "dim"
SIDES = {True: "desirable", False: "undesirable"}
"""Of unpaired preferences."""
MOST_DOCUMENTS = 2000
"""Of a row that are shown."""
MARGIN = "|"
"""Before lines of trained tokens, where there is no color."""


def choose_row(
    packed: PackedFolder,
    row: int | None = None,
    doc: int | None = None,
    *,
    source: str | None = None,
    longest: bool = False,
    worst_fill: bool = False,
) -> int:
    """The row to show; the first one when nothing is asked for.

    Raises UsageError for one that is not there, with what became of the document, and for two wishes at once.
    """
    wishes = {
        "--row": row is not None,
        "--doc": doc is not None,
        "--source": source is not None,
        "--longest": longest,
        "--worst-fill": worst_fill,
    }
    asked = [flag for flag, given in wishes.items() if given]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} each name a row", where=asked[1], hint="give one of them")
    if doc is not None:
        found = packed.row_of_document(doc)
        if found is None:
            raise UsageError(f"document {doc} is in no row", where="--doc", hint=_fate(packed, doc))
        return found
    if source is not None:
        return _row_of_source(packed, source)
    if longest:
        return _best_row(packed, np.maximum.reduceat)
    if worst_fill:
        return _best_row(packed, lambda lengths, firsts: -np.add.reduceat(lengths, firsts))
    row = row or 0
    if not len(packed):
        raise _no_rows(packed)
    if not 0 <= row < len(packed):
        raise UsageError(f"no row {row}", where="--row", hint=f"rows are 0 to {len(packed) - 1}")
    return row


def _best_row(packed: PackedFolder, measure: Callable[[Any, Any], Any]) -> int:
    """The first row whose `measure(lengths, firsts)` is largest; `firsts`: where lengths of rows start."""
    best, found, base = None, 0, 0
    for batch in packed.batches():
        column = batch.column("seq_lengths")
        if batch.num_rows:
            offsets = column.offsets.to_numpy()
            values = measure(column.flatten().to_numpy(), offsets[:-1] - offsets[0])
            if best is None or values.max() > best:
                best, found = values.max(), base + int(values.argmax())
        base += batch.num_rows
    if best is None:
        raise _no_rows(packed)
    return found


def _no_rows(packed: PackedFolder) -> UsageError:
    return UsageError(
        "the packed dataset has no rows", where=str(packed.folder), hint="`dropped.parquet` says why"
    )


def _row_of_source(packed: PackedFolder, source: str) -> int:
    ranges = source_ranges(packed)
    if source not in ranges:
        raise UsageError(f"no input named {source!r}", where="--source", hint=near_matches(source, ranges))
    row = packed.row_of_any(*ranges[source])
    if row is None:
        raise UsageError(
            f"no document of {source} is in a row", where="--source", hint="`dropped.parquet` says why"
        )
    return row


def source_ranges(packed: PackedFolder) -> dict[str, tuple[int, int]]:
    """Input -> its first document and the one after its last: documents are numbered input by input."""
    inside = packed.folder.resolve()
    whole = PackedFolder(inside.parent) if packed.manifest["split"] != "train" else packed
    return documents_by_source(whole.ledger)


def known_ranges(packed: PackedFolder) -> dict[str, tuple[int, int]]:
    """`source_ranges`; empty for a validation folder on its own."""
    try:
        return source_ranges(packed)
    except TokpackError:
        return {}


def origin_of(ranges: dict[str, tuple[int, int]], doc_id: int, width: int = 1) -> str:
    """`"number 12 of chats.jsonl"`, counted from 1; empty where it is not known. `width`: documents a row."""
    name, number = source_row(ranges, doc_id, width)
    return f"number {number:,} of {name}" if number else ""


def source_row(ranges: dict[str, tuple[int, int]], doc_id: int, width: int = 1) -> tuple[str, int]:
    """The input of a document, and its number there, from 1; ("", 0) where it is not known."""
    for name, (first, end) in ranges.items():
        if first <= doc_id < end:
            return name, (doc_id - first) // width + 1
    return "", 0


def _fate(packed: PackedFolder, doc: int) -> str:
    record = packed.dropped.filter(packed.dropped["doc_id"] == doc)
    if packed.manifest["split"] != "train":
        return "this is the validation part: look for it in the packed dataset that holds this folder"
    if record.is_empty():
        read = packed.ledger["documents"]["read"]
        return "it is in quarantine.jsonl" if 0 <= doc < read else f"documents are 0 to {read - 1}"
    reason, detail, source, line = record.select("reason", "detail", "source", "row").row(0)
    if reason == HELD_OUT:
        return f"held out: tokpack inspect {packed.folder / VALIDATION} --doc {doc}"
    return f"left out: {reason}" + (f" ({detail})" if detail else "") + f"; {source}, row {line}"


@dataclass(frozen=True)
class ShownRow:
    """A packed row that prints itself: trained tokens in green, or without color marked in the margin.

    max_tokens: of each document; 0: all.
    """

    packed: PackedFolder
    row: int
    max_tokens: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = console.no_color or console.color_system is None
        yield row_view(self.packed, self.row, self.max_tokens, MARGIN if plain else "")

    def _repr_html_(self) -> str:
        from tokpack.report.terminal import to_html

        return to_html(self)

    def __str__(self) -> str:
        file = io.StringIO()
        Console(width=100, no_color=True, file=file).print(self)
        return file.getvalue()


class _InMargin:
    """Lines of text with a mark before those that are trained; a line that is both is broken."""

    def __init__(self, runs: list[tuple[str, bool]], mark: str) -> None:
        self.runs, self.mark = runs, mark

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(10, options.max_width - len(self.mark) - 1)
        joined = False
        for run, trained in self.runs:
            text = run.removeprefix("\n") if joined else run
            joined = bool(text) and not text.endswith("\n")
            lines = text.removesuffix("\n").split("\n") if text else []
            for line in lines:
                for wrapped in Text(line).wrap(console, width) or [Text()]:
                    yield Text(f"{self.mark if trained else ' ' * len(self.mark)} ").append_text(wrapped)


def row_view(packed: PackedFolder, row: int, max_tokens: int = 0, margin: str = "") -> RenderableType:
    """One row: each document under a rule, trained tokens green, masked ones dim, white space as it is.

    With a `margin` lines of trained tokens have that mark before them instead.
    """
    record = packed[row]
    capacity = packed.manifest["capacity"]
    used, documents = len(record["input_ids"]), len(record["doc_ids"])
    pairs = is_preference(packed.manifest)
    held = counted(documents // PAIR_WIDTH, "pair") if pairs else counted(documents, "document")
    head = Text.assemble(
        (f"row {row}", "bold"),
        f"  {used:,} of {capacity:,} tokens, {held}  ",
        *([f"{margin} trained"] if margin else [("trained", TRAINED_STYLE), " ", ("masked", MASKED_STYLE)]),
    )
    parts: list[RenderableType] = [head]
    ranges = known_ranges(packed)
    for number, (doc_id, copy, ids, labels) in enumerate(islice(_documents(record), MOST_DOCUMENTS)):
        name = f"document {doc_id}" if copy is None else f"document {doc_id}, copy {copy}"
        title = f"{name}: {counted(len(ids), 'token')}, {int((labels != IGNORE_INDEX).sum()):,} trained"
        if pairs:
            title = f"pair {doc_id // PAIR_WIDTH}, {'rejected' if doc_id % PAIR_WIDTH else 'chosen'}, {title}"
        if IS_DESIRABLE in record:
            title = f"{SIDES[bool(record[IS_DESIRABLE][number])]}, {title}"
        if came_from := origin_of(ranges, doc_id, pair_width(packed.manifest)):
            title += f"; {printable(came_from)}"
        parts.append(Rule(Text(title), align="left", style="cyan"))
        limit = max_tokens or len(ids)
        runs = trained_runs(packed.tokenizer, ids[:limit], labels[:limit] != IGNORE_INDEX)
        parts.append(_InMargin(runs, margin) if margin else _colored(runs))
        if limit < len(ids):
            parts.append(Text(f"... {len(ids) - limit:,} more tokens", style="italic"))
    if documents > MOST_DOCUMENTS:
        parts.append(Text(f"... {documents - MOST_DOCUMENTS:,} more documents", style="italic"))
    return Group(*parts)


def _documents(record: dict[str, Any]) -> Iterator[tuple[int, int | None, Any, Any]]:
    """doc_id, copy (None where nothing is repeated), ids and labels of each."""
    ends = np.cumsum(record["seq_lengths"])
    copies = record[COPIES].tolist() if COPIES in record else [None] * len(ends)
    places = zip(record["doc_ids"], copies, ends - record["seq_lengths"], ends, strict=True)
    for doc_id, copy, start, end in places:
        yield int(doc_id), copy, record["input_ids"][start:end], record["labels"][start:end]


def _colored(runs: list[tuple[str, bool]]) -> Text:
    text = Text()
    for run, trained in runs:
        text.append(run, style=TRAINED_STYLE if trained else MASKED_STYLE)
    return text
