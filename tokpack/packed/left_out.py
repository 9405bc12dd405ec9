"""A document that was left out: why, its text, what in it made the rule hit, and the one that it repeats."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import field
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from tokpack.errors import DataError, UsageError
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import (
    EXACT_DUPLICATE,
    HELD_OUT,
    NEAR_DUPLICATE,
    PAIR_DROPPED,
    UNREADABLE,
    words_of,
)
from tokpack.packed.differences import differences, same_answer
from tokpack.packed.folder import PackedFolder
from tokpack.packed.originals import Original, Originals
from tokpack.packed.triggers import Mark, find_marks
from tokpack.terminal.printable import one_line, printable

REPEATS = (EXACT_DUPLICATE, NEAR_DUPLICATE)
NAMES_ANOTHER = (*REPEATS, PAIR_DROPPED)
"""Reasons whose detail begins with the doc_id of another document."""


@frozen
class LeftOut:
    """`row` counts from 1 in its source. `original` is None where there is no text: `fault` says why."""

    doc_id: int
    reason: str
    detail: str
    source: str
    row: int
    tokens_lost: int
    original: Original | None = None
    fault: str = ""
    raw: str = ""
    """Of a row that could not be read: the row as it was."""
    twin: Original | None = None
    """The document that the detail names."""

    @property
    def text(self) -> str:
        """Raises DataError where there is none."""
        if self.original is None and not self.raw:
            raise DataError(
                f"no text of document {self.doc_id}: {self.fault}",
                where=f"{self.source}, row {self.row}",
                hint="put the file back as it was, or pack it anew; of data in memory, see that row",
            )
        return self.original.text if self.original else self.raw


def twin_of(reason: str, detail: str | None) -> int | None:
    """doc_id of the document that the record of another one names."""
    number = re.match(r"\d{1,11}", detail or "") if reason in NAMES_ANOTHER else None
    return int(number[0]) if number else None


def detail_words(reason: str, detail: str) -> str:
    """The detail of a record; the number of another document as `document 17`."""
    twin = twin_of(reason, detail)
    if twin is None:
        return detail
    rest = detail.removeprefix(str(twin)).strip()
    if rest.startswith("jaccard "):
        rest = f"similarity {rest.removeprefix('jaccard ')}"
    return f"document {twin}" + (f", {rest}" if rest else "")


def find_left_out(packed: PackedFolder, doc_id: int) -> LeftOut:
    """Raises UsageError where no such document was left out, or only shortened."""
    originals = Originals(packed)
    found = packed.dropped.filter(packed.dropped["doc_id"] == doc_id).rows(named=True)
    if found and found[0]["reason"] != "truncated":
        record = {**found[0], "detail": found[0]["detail"] or ""}
        twin = twin_of(record["reason"], record["detail"])
        return LeftOut(
            **record,
            original=originals.find(doc_id),
            fault=originals.fault(doc_id),
            twin=originals.find(twin) if twin is not None else None,
        )
    for line in packed.quarantined():
        if line["doc_id"] == doc_id:
            return unreadable(line)
    row = packed.row_of_document(doc_id)
    read = packed.ledger["documents"]["read"]
    raise UsageError(
        f"document {doc_id} was not left out" if row is not None else f"no document {doc_id}",
        where=str(packed.folder),
        hint=f"it is in row {row}" if row is not None else f"documents are 0 to {read - 1}",
    )


def unreadable(line: dict[str, Any]) -> LeftOut:
    """A line of `quarantine.jsonl`."""
    raw = str(line.get("line", ""))
    if "line_base64" in line:
        try:
            raw = base64.b64decode(str(line["line_base64"])).decode("utf-8", "backslashreplace")
        except binascii.Error:
            raw = str(line["line_base64"])
    row = line.get("row")
    row = row if isinstance(row, int) else 0
    return LeftOut(line["doc_id"], UNREADABLE, str(line.get("reason", "")), line["source"], row, 0, raw=raw)


def marks_of(found: LeftOut, special_tokens: list[str]) -> list[Mark]:
    """What triggered the rule; for a repetition of another document, what differs from that one."""
    if found.original is None:
        return []
    messages = found.original.messages()
    if found.twin is not None and found.reason in REPEATS:
        return differing(messages, found.twin.messages())
    return find_marks(found.reason, found.detail, messages, special_tokens)


def differing(messages: list[tuple[str, str | None]], others: list[tuple[str, str | None]]) -> list[Mark]:
    """What is in the messages, and not in the messages at the same places of another document."""
    padded = others + [("", "")] * len(messages)
    pairs = zip(messages, padded, strict=False)
    return [
        Mark(number, start, end)
        for number, ((_, own), (_, other)) in enumerate(pairs)
        for start, end in differences(own or "", other or "")[0]
    ]


def runs_of(content: str, marks: list[Mark]) -> list[tuple[str, bool]]:
    """The content in stretches, and whether each is marked."""
    runs, place = [], 0
    for mark in marks:
        runs += [(content[place : mark.start], False), (content[mark.start : mark.end], True)]
        place = mark.end
    return [*runs, (content[place:], False)]


# In the terminal


@frozen
class ShownLeftOut:
    """Prints itself: marked characters in color, or between `>>` and `<<` where there is none."""

    found: LeftOut
    special_tokens: list[str] = field(default_factory=list)

    def __rich_console__(self, console: Any, options: Any) -> Any:
        plain = console.no_color or console.color_system is None
        yield from _parts(self.found, self.special_tokens, plain)


def _parts(found: LeftOut, special_tokens: list[str], plain: bool) -> list[RenderableType]:
    place = f"{one_line(found.source)}, row {found.row:,}"
    said = words_of(found.reason)
    parts: list[RenderableType] = [
        Text.assemble((f"document {found.doc_id}", "bold"), f"  left out: {one_line(found.reason)}; {place}"),
    ]
    parts += [Text(said, style="dim")] if said else []
    parts += [Text(printable(detail_words(found.reason, found.detail)))] if found.detail else []
    if found.reason == HELD_OUT:
        parts.append(Text("it is in the validation part"))
    if found.original is None:
        parts.append(Text(printable(found.raw)) if found.raw else Text(f"no text: {printable(found.fault)}"))
        return parts
    parts += _messages(found.original, marks_of(found, special_tokens), plain)
    if found.twin is not None and found.reason in REPEATS:
        same = same_answer(found.original.messages(), found.twin.messages())
        title = f"the document that it repeats, {found.twin.doc_id}: {'same' if same else 'another'} answer"
        marks = differing(found.twin.messages(), found.original.messages())
        parts += [Text(), Text(title, style="bold"), *_messages(found.twin, marks, plain)]
    return parts


def _messages(document: Original, marks: list[Mark], plain: bool) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for number, (role, content) in enumerate(document.messages()):
        own = [mark for mark in marks if mark.message == number]
        empty = " (empty)" if not (content or "").strip() else ""
        parts.append(Rule(Text(printable(role or "no role") + empty), align="left", style="cyan"))
        parts.append(_marked(content or "", own, plain))
    return [Group(*parts)]


def _marked(content: str, marks: list[Mark], plain: bool) -> Text:
    text = Text()
    for run, marked in runs_of(content, marks):
        shown = printable(run)
        text.append(f">>{shown}<<" if plain and marked else shown, style="bold yellow" if marked else None)
    return text
