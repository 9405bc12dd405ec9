"""Put texts together from literals and contents, all rows at once.

A row of one shape is `literal, content, literal, content, ..., literal`. One gather over a pool that holds
every literal once and all contents lays the pieces of all rows end to end; its data buffer is then the text
of the whole batch, and every span is two piece offsets. No loop over rows.

    shape ("<u>", "</u><a>", "</a>") with contents ["hi", "yo"]  ->  "<u>hi</u><a>yo</a>"
    span from piece 3 + 0 bytes to piece 4 + 4 bytes             ->  "yo</a>"
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tokpack.stages.render.compiled.symbols import Dumps, Slot

MOST_TEXT, MOST_WRITTEN, MOST_COPIES = (1 << 31) - 1, 1 << 29, 8
"""Bytes of a block as it is tokenized; that a template may write for one, and copies of its contents."""

if TYPE_CHECKING:
    from tokpack.stages.render.reference import RenderedRow

Ints = npt.NDArray[np.int64]

_PLAIN_JSON: Dumps = (("ensure_ascii", False), ("indent", None), ("separators", None), ("sort_keys", False))
_ESCAPES = {char: json.dumps(char, ensure_ascii=False)[1:-1] for char in [*map(chr, range(0x20)), '"', "\\"]}
"""Characters that JSON writes in another way."""

ValuedSpan = tuple[int, int, float]
"""(start, end, value)"""
Place = tuple[int, int, int, int]
"""(first piece, bytes into it, last piece, bytes into it); literals and contents count as pieces."""


@dataclass(frozen=True)
class Spans:
    """Byte ranges per document, relative to its text: row i has `starts[offsets[i]:offsets[i + 1]]`."""

    offsets: Ints
    starts: Ints
    ends: Ints

    def of_row(self, row: int) -> list[tuple[int, int]]:
        at = slice(*self.offsets[row : row + 2].tolist())
        return list(zip(self.starts[at].tolist(), self.ends[at].tolist(), strict=True))

    @staticmethod
    def of_rows(rows: Sequence[Sequence[tuple[int, int]]]) -> Spans:
        flat = np.array([span for row in rows for span in row], np.int64).reshape(-1, 2)
        return Spans(_offsets([len(row) for row in rows]), flat[:, 0].copy(), flat[:, 1].copy())


@dataclass(frozen=True)
class ValuedSpans:
    """Byte ranges as `Spans`, each with a value."""

    spans: Spans
    values: npt.NDArray[np.float32]

    def of_row(self, row: int) -> list[ValuedSpan]:
        at = slice(*self.spans.offsets[row : row + 2].tolist())
        values = self.values[at].tolist()
        return [(*span, value) for span, value in zip(self.spans.of_row(row), values, strict=True)]


@dataclass(frozen=True)
class ChatShape:
    """How to write the documents of one shape."""

    literals: tuple[str, ...]
    """One more than there are contents."""
    trained: tuple[Place, ...]
    written: tuple[Place, ...]
    """Where the contents are that the document itself has."""
    slots: tuple[Slot, ...] = ()
    """Which content stands between two literals, and how; empty when all stand in order, as they are."""
    segments: tuple[tuple[Place, float], ...] = ()
    """What the answers are made of, where that is asked for."""
    weights: tuple[tuple[Place, float], ...] = ()
    """Answers whose weight is not 1."""

    @property
    def contents(self) -> int:
        return len(self.literals) - 1


def write_slot(slot: Slot, texts: pl.Series) -> pl.Series:
    """`slot.fill` of every text."""
    if slot.left == slot.right and slot.left:
        texts = texts.str.strip_chars(slot.left)
    else:
        texts = texts.str.strip_chars_start(slot.left) if slot.left else texts
        texts = texts.str.strip_chars_end(slot.right) if slot.right else texts
    if slot.dumps is None:
        return texts
    return texts.str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))


def is_columnar(slot: Slot) -> bool:
    """Whether `write_slot` can write it."""
    return slot.dumps is None or slot.dumps == _PLAIN_JSON


class BlockSizeError(Exception):
    """The template writes more for the rows of a block than is held in memory."""

    def __init__(self, row: int, size: int, whole: int) -> None:
        super().__init__(f"row {row} is {size:,} bytes of {whole:,}")
        self.row, self.size, self.whole = row, size, whole


@dataclass
class Verbatim:
    """Rows whose text is ready; spans in bytes. Beyond `most` characters `add` raises BlockSizeError."""

    most: int = MOST_TEXT
    size: int = 0
    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    trained: list[list[tuple[int, int]]] = field(default_factory=list)
    content: list[list[tuple[int, int]]] = field(default_factory=list)
    segments: list[Sequence[ValuedSpan]] = field(default_factory=list)
    weights: list[Sequence[ValuedSpan]] = field(default_factory=list)

    def add(self, row: int, rendered: RenderedRow) -> None:
        self.size += len(rendered.text)
        if self.size > self.most:
            raise BlockSizeError(row, len(rendered.text), self.size)
        self.rows.append(row)
        self.texts.append(rendered.text)
        self.trained.append(rendered.trained)
        self.content.append(rendered.content)
        self.segments.append(rendered.segments)
        self.weights.append(rendered.weights)


@dataclass(frozen=True)
class Assembled:
    text: pa.LargeStringArray
    trained: Spans
    content: Spans
    segments: ValuedSpans | None
    """None where no row has any."""
    weights: ValuedSpans | None


def assemble(
    contents: pl.Series,
    first_content: Ints,
    shape_of_row: npt.NDArray[np.int32],
    shapes: Sequence[ChatShape],
    verbatim: Verbatim,
    places: Mapping[int, Ints] = MappingProxyType({}),
) -> Assembled:
    """The text and the spans of all rows.

    `contents` holds the contents of all rows end to end without nulls, row i from `first_content[i]` on;
    `shape_of_row` indexes `shapes`, and is -1 for the rows of `verbatim`. `places` says of some shapes where
    in `contents` each slot of each row is, int64[rows, slots]. Raises BlockSizeError before it takes memory.
    """
    counts = np.append([2 * shape.contents + 1 for shape in shapes], 1).astype(np.int64)
    piece_at = _offsets(counts[shape_of_row])
    pool, index = _gather_plan(contents, first_content, shape_of_row, shapes, verbatim, places, piece_at)
    _check_size(pool, index, piece_at, most_text(contents))
    pieces = pool.gather(pl.Series(index)).to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offset_buffer, data = pieces.buffers()
    place = np.frombuffer(offset_buffer, np.int64)[pieces.offset : pieces.offset + len(pieces) + 1]
    text_at = place[piece_at]
    text = pa.LargeStringArray.from_buffers(
        len(shape_of_row), pa.py_buffer(text_at), data if data is not None else pa.py_buffer(b"")
    )
    rows = np.asarray(verbatim.rows, np.int64)

    def spans(of_shape: list[tuple[Place, ...]], of_rows: Spans) -> tuple[Spans, Ints]:
        return _spans(of_shape, shape_of_row, place, piece_at, rows, of_rows)

    def valued(
        of_shape: list[tuple[tuple[Place, float], ...]], of_rows: list[Sequence[ValuedSpan]]
    ) -> ValuedSpans | None:
        if not any(of_shape) and not any(of_rows):
            return None
        bare = Spans.of_rows([[(start, end) for start, end, _ in row] for row in of_rows])
        found, which = spans([tuple([at for at, _ in some]) for some in of_shape], bare)
        values = [value for some in of_shape for _, value in some]
        values += [value for row in of_rows for _, _, value in row]
        return ValuedSpans(found, np.array(values, np.float32)[which])

    return Assembled(
        text,
        spans([shape.trained for shape in shapes], Spans.of_rows(verbatim.trained))[0],
        spans([shape.written for shape in shapes], Spans.of_rows(verbatim.content))[0],
        valued([shape.segments for shape in shapes], verbatim.segments),
        valued([shape.weights for shape in shapes], verbatim.weights),
    )


def most_text(contents: pl.Series) -> int:
    """Bytes that a block of these contents may become: a token has one at least, and the store counts them
    in int32.
    """
    return min(MOST_TEXT, MOST_WRITTEN + MOST_COPIES * int(contents.str.len_bytes().sum()))


def _check_size(pool: pl.Series, index: Ints, piece_at: Ints, most: int) -> None:
    """piece_at: of each row its first piece, and the end."""
    ends = np.append(0, np.cumsum(pool.str.len_bytes().to_numpy().astype(np.int64)[index]))
    if (whole := int(ends[-1])) > most:
        sizes = np.diff(ends[piece_at])
        raise BlockSizeError(int(sizes.argmax()), int(sizes.max()), whole)


def _gather_plan(
    contents: pl.Series,
    first_content: Ints,
    shape_of_row: npt.NDArray[np.int32],
    shapes: Sequence[ChatShape],
    verbatim: Verbatim,
    places: Mapping[int, Ints],
    piece_at: Ints,
) -> tuple[pl.Series, Ints]:
    """(pool of strings, index into it of every piece)."""
    index = np.empty(piece_at[-1], np.int64)
    literals = {text: i for i, text in enumerate(dict.fromkeys(t for s in shapes for t in s.literals))}
    extra = [pl.Series([*literals, *verbatim.texts], dtype=pl.String)]
    base = len(contents)
    index[piece_at[np.asarray(verbatim.rows, np.int64)]] = (
        np.arange(len(verbatim.rows)) + base + len(literals)
    )
    grown = base + len(extra[0])
    rewritten: dict[Slot, list[Ints]] = {}
    order = np.argsort(shape_of_row, kind="stable")
    limits = np.searchsorted(shape_of_row[order], np.arange(len(shapes) + 1))
    for number, shape in enumerate(shapes):
        rows = order[limits[number] : limits[number + 1]]
        if not len(rows):
            continue
        at, table = piece_at[rows], places.get(number)
        for i, literal in enumerate(shape.literals):
            index[at + 2 * i] = base + literals[literal]
        for i, slot in enumerate(shape.slots or map(Slot, range(shape.contents))):
            index[at + 2 * i + 1] = first_content[rows] + slot.index if table is None else table[:, i]
            if (form := replace(slot, index=0)) != Slot(0):
                rewritten.setdefault(form, []).append(at + 2 * i + 1)
    for form, found in rewritten.items():
        where = np.concatenate(found)
        extra.append(write_slot(form, contents.gather(pl.Series(index[where]))))
        index[where] = grown + np.arange(len(where))
        grown += len(where)
    return pl.concat([contents, *extra], rechunk=False), index


def _spans(
    of_shape: Sequence[tuple[Place, ...]],
    shape_of_row: npt.NDArray[np.int32],
    place: Ints,
    piece_at: Ints,
    verbatim_rows: Ints,
    verbatim: Spans,
) -> tuple[Spans, Ints]:
    """The spans, and of each its number: those of all shapes end to end, then those of `verbatim`."""
    table = np.array([span for spans in of_shape for span in spans], np.int64).reshape(-1, 4)
    per_shape = np.array([len(spans) for spans in of_shape] + [0], np.int64)
    counts = per_shape[shape_of_row]
    counts[verbatim_rows] = np.diff(verbatim.offsets)
    offsets = _offsets(counts)
    starts, ends, which = (np.empty(offsets[-1], np.int64) for _ in range(3))

    rows = np.flatnonzero((shape_of_row >= 0) & (counts > 0))
    row, step = _repeat(rows, counts[rows])
    number = _offsets(per_shape)[shape_of_row[row]] + step
    entry = table[number]
    which[offsets[row] + step] = number
    first = piece_at[row]
    text_at = place[first]
    starts[offsets[row] + step] = place[first + entry[:, 0]] + entry[:, 1] - text_at
    ends[offsets[row] + step] = place[first + entry[:, 2]] + entry[:, 3] - text_at

    row, step = _repeat(verbatim_rows, counts[verbatim_rows])
    starts[offsets[row] + step] = verbatim.starts
    ends[offsets[row] + step] = verbatim.ends
    which[offsets[row] + step] = len(table) + np.arange(len(verbatim.ends))
    return Spans(offsets, starts, ends), which


def _repeat(rows: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Each row `count` times, and the number of the repetition: [7, 9], [2, 1] -> [7, 7, 9], [0, 1, 0]."""
    step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(rows, counts), step


def _offsets(counts: npt.ArrayLike) -> Ints:
    result = np.zeros(len(np.asarray(counts)) + 1, np.int64)
    np.cumsum(counts, out=result[1:])
    return result
