"""Rows that are tokenized already -> documents, and their tokens as they are.

Nothing is cleaned by its text, rendered or tokenized. The fast path reads whole columns; a row in which it
finds anything odd goes through `row_to_tokens`, and what that refuses is quarantined with the reason.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.arrays import Int64
from tokpack.frozen import frozen
from tokpack.ranges import copy_ranges, offsets_of, range_indices
from tokpack.schema import CONTENT, IGNORE_INDEX, TRAINED
from tokpack.stages.normalize.documents import DOCUMENT_SCHEMA, Normalized, Quarantined
from tokpack.stages.normalize.json_lines import read_json_lines
from tokpack.stages.normalize.raw_rows import RawRow, lines_of, odd_rows, parse_line, raw_rows
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.token_rows import LABELED, RowTokens, column_of, row_to_tokens
from tokpack.stages.normalize.values import reason_of
from tokpack.stages.read.blocks import Block, line_numbers
from tokpack.stages.read.faults import Unreadable
from tokpack.stages.read.sources import Source
from tokpack.stages.tokenize import TokenBatch

Bools = npt.NDArray[np.bool_]
FIELDS = ("input_ids", "labels", "attention_mask")
JSON_CHUNK = 4 << 20


@frozen
class _Rows:
    """Good rows of a block, in order: `positions` in the block, who has labels, and their tokens."""

    positions: Int64
    labeled: Bools
    offsets: Int64
    ids: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]


def take_tokens(block: Block, source: Source, shape: Shape, vocab_size: int) -> tuple[Normalized, TokenBatch]:
    """One block -> its documents in input order with their tokens, and what had to be quarantined."""
    table, read = _read_json(block, shape) if isinstance(block.data, bytes) else (block.data, None)
    rows = _from_columns(table, shape, vocab_size) if table is not None else None
    if rows and read is not None:
        rows = replace(rows, positions=read[rows.positions])
    odd = np.setdiff1d(np.arange(block.rows), rows.positions if rows else [])
    quarantined: list[Quarantined] = []
    if rows is None or len(odd):
        rest, bad = _one_by_one(block, shape, odd, vocab_size)
        rows = _merged(rows, rest) if rows else rest
        for row, reason in bad:
            where = (int(block.numbers()[row.position]), source.name, row.number, row.byte_offset)
            quarantined.append(Quarantined(*where, reason, row.raw))
    batch = TokenBatch(rows.offsets, rows.ids, rows.flags)
    return Normalized(_frame(block, rows), quarantined), batch


def _frame(block: Block, rows: _Rows) -> pl.DataFrame:
    count = len(rows.positions)
    kinds = pl.Series(["text", LABELED]).gather(pl.Series(rows.labeled.astype(np.uint32)))
    known = {
        "doc_id": block.numbers()[rows.positions],
        "source": block.sources()[rows.positions],
        "row": line_numbers(block)[rows.positions],
        "kind": kinds,
    }
    empty = {
        name: pl.Series([[]] if isinstance(kind, pl.List) else [None], dtype=kind).new_from_index(0, count)
        for name, kind in DOCUMENT_SCHEMA.items()
        if name not in known
    }
    return pl.DataFrame(known | empty, schema=DOCUMENT_SCHEMA)


# The fast path: columns


def _read_json(block: Block, shape: Shape) -> tuple[pa.Table | None, Int64]:
    """The columns of JSON lines, or None when one holds something else in their place; and the rows read."""
    assert isinstance(block.data, bytes)
    data, rows = block.data, np.arange(block.rows)
    if (odd := odd_rows(block)).any():
        rows = np.flatnonzero(~odd)
        lines, _ = lines_of(block)
        data = b"\n".join(lines[i] for i in rows)
    if not data:
        return None, rows
    fields = [(column_of(shape, field), pa.list_(pa.int64())) for field in FIELDS]
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    longest = int(np.diff(ends, prepend=-1, append=len(data)).max())
    chunk = max(JSON_CHUNK, longest + 1)
    return read_json_lines(data, fields, len(rows), others="ignore", chunk=chunk), rows


def _from_columns(table: pa.Table, shape: Shape, vocab_size: int) -> _Rows:
    """The rows in which nothing is odd."""
    columns = {field: _lists(table, column_of(shape, field), field == "attention_mask") for field in FIELDS}
    ids, labels, mask = (columns[field] for field in FIELDS)
    good = ~(ids.odd | ids.missing | labels.odd | mask.odd)
    for other in (labels, mask):
        good &= other.missing | (other.lengths == ids.lengths)
    positions = np.flatnonzero(good)
    lengths = ids.lengths[positions]
    offsets = offsets_of(lengths)
    flat = ids.of(positions)
    label = labels.beside(flat, lengths, positions)
    starts, sizes, padded_well = _kept_ranges(mask.beside(np.ones(1, np.int64), lengths, positions), offsets)
    bad = (flat < 0) | (flat >= vocab_size)
    if label is not flat:
        bad |= (label != flat) & (label != IGNORE_INDEX)
    wrong = np.concatenate([[0], np.cumsum(bad)])
    fine = padded_well & (wrong[starts + sizes] == wrong[starts])
    starts, sizes, positions = starts[fine], sizes[fine], positions[fine]
    trained = np.where(label != IGNORE_INDEX, CONTENT | TRAINED, CONTENT).astype(np.uint8)
    kept_ids, flags = copy_ranges(flat.astype(np.int32), starts, sizes), copy_ranges(trained, starts, sizes)
    ends = offsets_of(sizes)
    flags[ends[:-1][sizes > 0]] &= ~np.uint8(TRAINED)
    return _Rows(positions, ~labels.missing[positions], ends, kept_ids, flags)


@frozen
class _Lists:
    """A column of integer lists. `odd`: rows that hold anything else; they and missing ones have length 0."""

    lengths: Int64
    values: Int64
    missing: Bools
    odd: Bools

    def of(self, rows: Int64) -> Int64:
        """The values of these rows, one after another."""
        starts = offsets_of(self.lengths)[rows]
        return copy_ranges(self.values, starts, self.lengths[rows])

    def beside(self, default: Int64, lengths: Int64, rows: Int64) -> Int64:
        """The values of these rows, each of the length given; `default` (or its one value) where missing."""
        given = ~self.missing[rows]
        if given.all():
            return self.of(rows)
        total = int(lengths.sum())
        if not given.any():
            return default if len(default) == total else np.broadcast_to(default, total)
        result = np.broadcast_to(default, total).copy()
        result[range_indices(offsets_of(lengths)[:-1][given], lengths[given])] = self.of(rows[given])
        return result


def _lists(table: pa.Table, name: str, booleans: bool) -> _Lists:
    count, nothing = table.num_rows, np.empty(0, np.int64)
    none, every = np.zeros(count, bool), np.ones(count, bool)
    if name not in table.column_names or pa.types.is_null(table.column(name).type):
        return _Lists(np.zeros(count, np.int64), nothing, every, none)
    column = table.column(name).combine_chunks()
    if not _is_integer_list(column.type, booleans):
        return _Lists(np.zeros(count, np.int64), nothing, none, every)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = column.flatten()
    odd = none
    if values.null_count:
        holes = offsets_of(values.is_null().to_numpy(zero_copy_only=False))
        ends = offsets_of(lengths)
        odd = holes[ends[1:]] > holes[ends[:-1]]
    flat = values.cast(pa.int64(), safe=False).fill_null(0).to_numpy()
    return _Lists(lengths, flat, column.is_null().to_numpy(zero_copy_only=False), odd)


def _is_integer_list(kind: pa.DataType, booleans: bool) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(test(kind) for test in tests):
        return False
    return bool(pa.types.is_integer(kind.value_type) or (booleans and pa.types.is_boolean(kind.value_type)))


def _kept_ranges(mask: Int64, offsets: Int64) -> tuple[Int64, Int64, Bools]:
    """(start, tokens) of what is no padding in each row, and whether the mask is zeros around ones."""
    ones = offsets_of(mask == 1)
    others = offsets_of((mask != 0) & (mask != 1))
    low, high = ones[offsets[:-1]], ones[offsets[1:]]
    sizes = high - low
    at = np.append(np.flatnonzero(mask == 1), 0)
    starts = np.where(sizes > 0, at[low], offsets[:-1])
    last = at[np.maximum(high - 1, 0)]
    well = (sizes == 0) | (last - starts + 1 == sizes)
    return starts, sizes, well & (others[offsets[1:]] == others[offsets[:-1]])


# The slow path: row by row, the reference


def _one_by_one(
    block: Block, shape: Shape, positions: Int64, vocab_size: int
) -> tuple[_Rows, list[tuple[RawRow, str]]]:
    good: list[tuple[int, RowTokens]] = []
    bad: list[tuple[RawRow, str]] = []
    for row, place in raw_rows(block, positions):
        parsed, reason = _read(row)
        if parsed is not None:
            try:
                good.append((place.position, row_to_tokens(parsed, shape, vocab_size)))
            except Exception as error:  # whatever a row is, it ends no run
                reason = reason_of(error)
        if reason:
            bad.append((place, reason))
    tokens = [row for _, row in good]
    return (
        _Rows(
            np.array([position for position, _ in good], np.int64),
            np.array([row.kind == LABELED for row in tokens], bool),
            offsets_of(np.array([len(row.ids) for row in tokens], np.int64)),
            np.concatenate([np.empty(0, np.int32), *(row.ids for row in tokens)]),
            np.concatenate([np.empty(0, np.uint8), *(row.flags for row in tokens)]),
        ),
        bad,
    )


def _read(row: Any) -> tuple[dict[str, Any] | None, str]:
    if isinstance(row, Unreadable):
        return None, row.reason
    return parse_line(row) if isinstance(row, bytes) else (row, "")


def _merged(a: _Rows, b: _Rows) -> _Rows:
    positions = np.concatenate([a.positions, b.positions])
    order = np.argsort(positions)
    lengths = np.concatenate([np.diff(a.offsets), np.diff(b.offsets)])
    starts = offsets_of(lengths)[:-1][order]
    return _Rows(
        positions[order],
        np.concatenate([a.labeled, b.labeled])[order],
        offsets_of(lengths[order]),
        copy_ranges(np.concatenate([a.ids, b.ids]), starts, lengths[order]),
        copy_ranges(np.concatenate([a.flags, b.flags]), starts, lengths[order]),
    )
