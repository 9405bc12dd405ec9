"""Normalize: a block of rows in any known shape -> documents, one row each.

    doc_id, source, row, kind, roles: list[str], contents: list[str], extra, drop_reason, drop_detail

Of unpaired preferences also `desirable`, whether the answer is a good one.

`kind` is `chat`, `prompt_completion` or `text`; prompt + completion and Alpaca rows become user and
assistant messages. A row of preference data becomes two documents, `doc_id` 2k the chosen and 2k + 1 the
rejected one. `extra` is null, or JSON with what only the Jinja template understands:
`{"tools": [...], "messages": [{"tool_calls": ...}, ...]}`.

The fast path maps Arrow columns; a row it does not understand goes through `row_to_document`, the
row-by-row reference, and what that refuses is quarantined with its place and reason.
"""

from __future__ import annotations

import string
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from tokpack.schema import PREFERENCE
from tokpack.stages.normalize.call_columns import (
    calls_json,
    extra_column,
    may_be_told,
    tools_column,
    tools_json,
)
from tokpack.stages.normalize.documents import DESIRABLE, DOCUMENT_SCHEMA, Normalized, Quarantined
from tokpack.stages.normalize.formats import CHATS, FIELDS
from tokpack.stages.normalize.json_lines import read_json_lines
from tokpack.stages.normalize.late import may_hold
from tokpack.stages.normalize.message_columns import (
    filled,
    holds_talk,
    message_lists,
    says_something,
    text_column,
)
from tokpack.stages.normalize.pair_columns import pair_lists
from tokpack.stages.normalize.pair_rows import row_to_pair
from tokpack.stages.normalize.passed_over import PassedOver, fields_in_rows, in_rows, in_table, other_splits
from tokpack.stages.normalize.raw_rows import dumped, lines_of, odd_rows, parse_line
from tokpack.stages.normalize.rows import NO_INPUT, RowDocument, row_to_document
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.values import NOTHING_MORE, RowError, reason_of
from tokpack.stages.read.blocks import Block, line_numbers
from tokpack.stages.read.faults import Unreadable, readable_rows
from tokpack.stages.read.sources import Source


def normalize(block: Block, source: Source, shape: Shape) -> Normalized:
    """One block -> its documents in input order, and what had to be quarantined."""
    if not isinstance(block.data, bytes):
        return _from_table(block, source, shape, block.data)
    odd = odd_rows(block, source.container)
    table = None if odd.any() else _read_lines(block.data, source, shape, block.rows)
    return _from_table(block, source, shape, table) if table else _from_lines(block, source, shape, odd)


# The fast path: Arrow columns


def _read_lines(data: bytes, source: Source, shape: Shape, rows: int) -> pa.Table | None:
    """The lines that are not blank as a table, or None when any line is not what the shape promises."""
    if shape.row_by_row:
        return None
    return _read_text(data) if source.container == "text" else _read_json(data, shape, rows)


def _read_text(data: bytes) -> pa.Table | None:
    try:
        texts = pl.Series("text", [data]).cast(pl.String).str.split("\n").explode()
    except pl.exceptions.ComputeError:  # not UTF-8
        return None
    filled = texts.str.strip_chars(string.whitespace) != ""  # as for bytes: other blanks are text
    texts = texts.filter(filled).str.strip_prefix("\ufeff").str.strip_suffix("\r")
    return texts.to_frame().to_arrow()


def _read_json(data: bytes, shape: Shape, rows: int) -> pa.Table | None:
    fields = [
        pa.field(column, _json_type(target, shape))
        for target, column in shape.columns.items()
        if shape.format != PREFERENCE  # texts, messages or ShareGPT turns: the reader finds out
    ]
    return read_json_lines(data, fields, rows)


def _json_type(target: str, shape: Shape) -> pa.DataType:
    if target in ("messages", "conversations"):
        return pa.list_(pa.struct([(key, pa.string()) for key in shape.message_keys]))
    return pa.string()


def _from_table(block: Block, source: Source, shape: Shape, table: pa.Table) -> Normalized:
    columns = _vectorize(table, shape)
    over = {block.source: in_table(table, shape)}
    if columns is None:
        rows = _slow_rows(block, source, table, np.arange(block.rows))
        more = PassedOver(fields_in_rows([row for row, _ in rows], shape))
        over = {block.source: over[block.source].plus(more)}
        return replace(_from_rows(block, source, shape, np.arange(block.rows), rows), passed_over=over)
    documents = _of_columns(block, np.arange(block.rows), shape, columns)
    if not columns.slow.any():
        return Normalized(documents, [], over)
    positions = np.flatnonzero(columns.slow)
    rest = _from_rows(block, source, shape, positions, _slow_rows(block, source, table, positions))
    fast = documents.filter(pl.Series(np.repeat(~columns.slow, shape.documents_per_row)))
    return Normalized(pl.concat([fast, rest.documents]).sort("doc_id"), rest.quarantined, over)


class _Columns(NamedTuple):
    kind: str
    roles: pl.Series
    contents: pl.Series
    slow: np.ndarray[Any, Any]
    """Rows that need the slow path."""
    extra: pl.Series | None = None
    desirable: pl.Series | None = None
    dropped: pl.Series | None = None
    """Why rows say by themselves that they are not to be learned, one entry a row."""
    passed_over: PassedOver = PassedOver()


def _vectorize(table: pa.Table, shape: Shape) -> _Columns | None:
    """None when types do not fit."""
    slow = np.zeros(table.num_rows, dtype=bool)
    if shape.row_by_row:
        return None
    labels = _labels(table, shape)
    if labels is not None:
        slow |= labels.is_null().to_numpy()
    dropped = other_splits(table, shape.beside.get("split"), slow)
    found = _columns(table, shape, slow, shape.beside["label"] if labels is not None else None)
    return found._replace(desirable=labels, dropped=dropped) if found else None


def _labels(table: pa.Table, shape: Shape) -> pl.Series | None:
    """Which answers are good, where the column holds truth values; others are read row by row."""
    path = shape.beside.get("label") if shape.unpaired else None
    if path not in table.column_names or not pa.types.is_boolean(table.column(path).type):
        return None
    return pl.Series(pl.from_arrow(table.column(path)))


def _columns(
    table: pa.Table, shape: Shape, slow: np.ndarray[Any, Any], labels: str | None
) -> _Columns | None:
    """`labels`: a column that is read already."""
    tools = tools_column(table, shape) if shape.format in CHATS else None
    for name in (shape.slow_columns & set(table.column_names)) - {tools, labels}:
        test = says_something if name in shape.may_say_nothing else filled
        slow |= test(table.column(name))
    for name, keys in shape.late_roots.items():
        if keys and name in table.column_names and name not in shape.slow_columns:
            slow |= may_hold(table.column(name), keys)
    if shape.format == PREFERENCE:
        pairs = pair_lists(table, shape, slow)
        return _Columns(*pairs, slow) if pairs else None
    if shape.format in CHATS:
        return _vectorize_chats(table, shape, tools, slow)
    texts: dict[str, pl.Series] = {}
    for target, name in shape.columns.items():
        if name in table.column_names:
            values = text_column(table.column(name))
            if values is None:
                return None
            texts[target] = values.alias(target)
            if shape.format == "prompt_completion":
                slow |= holds_talk(values)
    kind = "text" if shape.format == "text" else "prompt_completion"
    for required in FIELDS[shape.format]:
        if required not in texts:
            return None
        slow |= texts[required].is_null().to_numpy()
    frame = pl.DataFrame(texts).with_columns(pl.all().fill_null(""))
    if "input" in texts:
        prompt = next(iter(FIELDS[shape.format]))
        joined = pl.concat_str(prompt, pl.lit("\n"), "input")
        frame = frame.with_columns(
            pl.when(pl.col("input").is_in(NO_INPUT)).then(prompt).otherwise(joined).alias(prompt)
        )
    role_of = {name: role for name, role in FIELDS[shape.format].items() if name in texts}
    roles = pl.Series([list(role_of.values())], dtype=pl.List(pl.String)).new_from_index(0, len(frame))
    contents = frame.select(pl.concat_list(list(role_of)).alias("contents")).to_series()
    roles, contents, _ = _after_system(roles, contents, None, table, shape, slow)
    return _Columns(kind, roles, contents, slow)


def _vectorize_chats(
    table: pa.Table, shape: Shape, tools: str | None, slow: np.ndarray[Any, Any]
) -> _Columns | None:
    """`tools`: a column of texts with the tools of each row."""
    column = table.column(next(iter(shape.columns.values())))
    lists = message_lists(column, slow, shape.reads, calls_json, shape.speakers)
    if lists is None:
        return None
    roles, contents, more = _after_system(*lists, table, shape, slow)
    written = None
    if tools is not None and (texts := text_column(table.column(tools))) is not None:
        written, failed = tools_json(texts)
        slow |= failed
        if written.null_count() < len(written):
            slow |= may_be_told(roles, contents) & written.is_not_null().to_numpy()
    return _Columns("chat", roles, contents, slow, extra_column(more, written, len(roles)))


def _after_system(
    roles: pl.Series,
    contents: pl.Series,
    more: pl.Series | None,
    table: pa.Table,
    shape: Shape,
    slow: np.ndarray[Any, Any],
) -> tuple[pl.Series, pl.Series, pl.Series | None]:
    """Roles, contents and further fields with the text of the column `system` before them, where filled.

    Marks in `slow` the rows that have a system message of their own, or no text in the column."""
    name = shape.beside.get("system")
    if name is None or name not in table.column_names:
        return roles, contents, more
    system = text_column(table.column(name))
    if system is None:
        slow |= filled(table.column(name))
        return roles, contents, more
    slow |= holds_talk(system)
    told = system.fill_null("") != ""
    slow |= (told & (roles.list.first() == "system").fill_null(True)).to_numpy()
    return (
        _put_before(pl.Series(["system"]).new_from_index(0, len(roles)), roles, told),
        _put_before(system, contents, told),
        more
        if more is None
        else _put_before(pl.Series([NOTHING_MORE]).new_from_index(0, len(roles)), more, told),
    )


def _put_before(first: pl.Series, lists: pl.Series, where: pl.Series) -> pl.Series:
    longer = pl.DataFrame({"a": first, "b": lists}).select(pl.concat_list("a", "b")).to_series()
    return longer.zip_with(where, lists)


def _of_columns(
    block: Block, positions: np.ndarray[Any, Any], shape: Shape, columns: _Columns
) -> pl.DataFrame:
    """The documents of all rows, those that are slow too."""
    kind, roles, contents, _, extra, desirable, dropped, _ = columns
    if shape.unpaired and desirable is None:  # all rows are slow
        desirable = pl.Series([None], dtype=pl.Boolean).new_from_index(0, len(positions))
    if dropped is not None:
        dropped = dropped.gather(np.repeat(np.arange(len(dropped)), shape.documents_per_row))
    return _frame(block, positions, shape, kind, roles, contents, extra, dropped, desirable)


def _frame(
    block: Block,
    positions: np.ndarray[Any, Any],
    shape: Shape,
    kind: Any,
    roles: Any,
    contents: Any,
    extra: Any = None,
    dropped: Any = None,
    desirable: Any = None,
) -> pl.DataFrame:
    """The documents of the block's rows at `positions`; `roles` and the rest have one entry a document."""
    labels: dict[str, pl.DataType | type[pl.DataType]] = {DESIRABLE: pl.Boolean} if shape.unpaired else {}
    width = shape.documents_per_row
    doc_ids = (width * block.numbers()[positions][:, None] + np.arange(width)).ravel()
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, len(doc_ids))
    return pl.DataFrame(
        {
            "doc_id": doc_ids,
            "source": np.repeat(block.sources()[positions], width),
            "row": np.repeat(line_numbers(block)[positions], width),
            "kind": kind if isinstance(kind, list) else pl.Series([kind]).new_from_index(0, len(doc_ids)),
            "roles": _text_lists(roles),
            "contents": _text_lists(contents),
            "extra": nothing if extra is None else extra,
            "drop_reason": nothing if dropped is None else dropped,
            "drop_detail": nothing,
            **({DESIRABLE: pl.Series(desirable, dtype=pl.Boolean)} if labels else {}),
        },
        schema=DOCUMENT_SCHEMA | labels,
    )


def _text_lists(values: Any) -> Any:
    """Lists of texts as a column: by way of Arrow, which is many times as fast as polars at this."""
    if not isinstance(values, list):
        return values
    return pl.Series(pl.from_arrow(pa.array(values, pa.large_list(pa.large_string()))))


# The slow path: row by row, the reference


def _from_lines(block: Block, source: Source, shape: Shape, odd: np.ndarray[Any, Any]) -> Normalized:
    """A block of lines that the fast reader does not take whole: the rows that it takes, and the others.

    Rows that are not `odd` are tried together, and where one of them is broken, without the broken ones.
    """
    lines, _ = lines_of(block)
    plain = np.flatnonzero(~odd)
    columns = _columns_of([lines[i] for i in plain], source, shape) if odd.any() else None
    if columns is None:
        plain = np.array([i for i in plain if not parse_line(lines[i], source.container)[1]], np.int64)
        columns = _columns_of([lines[i] for i in plain], source, shape) if len(plain) < block.rows else None
    if columns is None:
        plain = np.empty(0, np.int64)
    fast = plain[~columns.slow] if columns else plain
    others = np.setdiff1d(np.arange(block.rows), fast)
    rows = [_parsed(lines[i], source) for i in others]
    rest = _from_rows(block, source, shape, others, rows)
    over = in_rows((row for row, _ in rows), shape)
    if columns is None:
        return replace(rest, passed_over={block.source: over})
    documents = _of_columns(block, plain, shape, columns)
    documents = documents.filter(pl.Series(np.repeat(~columns.slow, shape.documents_per_row)))
    return Normalized(
        pl.concat([documents, rest.documents]).sort("doc_id"),
        rest.quarantined,
        {block.source: columns.passed_over.plus(over)},
    )


def _columns_of(lines: list[bytes], source: Source, shape: Shape) -> _Columns | None:
    table = _read_lines(b"\n".join(lines), source, shape, len(lines)) if lines else None
    columns = _vectorize(table, shape) if table else None
    return columns._replace(passed_over=in_table(table, shape)) if columns else None


def _parsed(line: bytes, source: Source) -> tuple[Any, bytes]:
    row, reason = parse_line(line, source.container)
    return (Unreadable(reason, line) if row is None else row), line


def _slow_rows(
    block: Block, source: Source, table: pa.Table, positions: np.ndarray[Any, Any]
) -> list[tuple[Any, bytes]]:
    if isinstance(block.data, bytes):
        lines, _ = lines_of(block)
        return [_parsed(lines[i], source) for i in positions]
    return [(row, dumped(row)) for row in readable_rows(table, positions)]


def _from_rows(
    block: Block, source: Source, shape: Shape, positions: np.ndarray[Any, Any], rows: list[tuple[Any, bytes]]
) -> Normalized:
    documents: list[RowDocument] = []
    kept: list[int] = []
    quarantined: list[Quarantined] = []
    numbers = line_numbers(block)
    offsets: np.ndarray[Any, Any] | None = None
    for position, (row, raw) in zip(positions.tolist(), rows, strict=True):
        try:
            if isinstance(row, Unreadable):
                raise RowError(row.reason)
            pairs = shape.format == PREFERENCE
            documents += row_to_pair(row, shape) if pairs else (row_to_document(row, shape),)
            kept.append(position)
        except Exception as error:  # whatever a row is, it ends no run
            if offsets is None:
                lined = isinstance(block.data, bytes)
                offsets = lines_of(block)[1] if lined else np.full(block.rows, -1)
            offset = int(offsets[position])
            where = (_first_id(block, shape, position), source.name, int(numbers[position]), offset)
            quarantined.append(Quarantined(*where, reason_of(error), raw))
    frame = _frame(
        block,
        np.array(kept, dtype=np.int64),
        shape,
        [d.kind for d in documents],
        [d.roles for d in documents],
        [d.contents for d in documents],
        [d.extra for d in documents],
        [d.dropped for d in documents],
        [d.desirable for d in documents],
    )
    return Normalized(frame, quarantined)


def _first_id(block: Block, shape: Shape, position: int) -> int:
    """`doc_id` of the row's first document, which it uses up when it is quarantined."""
    return shape.documents_per_row * int(block.numbers()[position])
