"""Messages, tools and rows in every container, and the documents that are read from them."""

from __future__ import annotations

import io
import json
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import reject

from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.documents import Normalized
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.read.blocks import Block, read_blocks
from tokpack.stages.read.sources import open_sources

Row = dict[str, Any]
TOOL = {
    "type": "function",
    "function": {"name": "tide", "parameters": {"type": "object", "required": ["day"]}},
}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "tide", "arguments": {"day": 1, "harbor": "Emden"}},
}


def user(text: str | None, **more: Any) -> Row:
    return {"role": "user", "content": text, **more}


def assistant(text: str | None, **more: Any) -> Row:
    return {"role": "assistant", "content": text, **more}


def as_lines(rows: list[Row]) -> bytes:
    return b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows)


def as_table(rows: list[Row], columns: Row) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows])


def as_parquet(rows: list[Row], columns: Row) -> pa.Table:
    file = io.BytesIO()
    try:
        pq.write_table(as_table(rows, columns), file)
    except pa.ArrowNotImplementedError:  # Arrow 21 writes no empty object
        reject()
    return pq.read_table(io.BytesIO(file.getvalue()))


def as_json_type(rows: list[Row], columns: Row) -> pa.Table:
    """As `datasets` writes its `Json` type: lists of texts of type `arrow.json`."""

    def column(name: str) -> pa.Array:
        values = [row.get(name) for row in rows]
        if not isinstance(columns[name], list):
            return pa.array(values, pa.string())
        texts = [value if value is None else list(map(json.dumps, value)) for value in values]
        lists = pa.array(texts, pa.large_list(pa.string()))
        return pa.LargeListArray.from_arrays(
            lists.offsets, pa.JsonArray.from_storage(pa.json_(), lists.values), mask=lists.is_null()
        )

    return pa.table({name: column(name) for name in columns})


CONTAINERS = {"arrow": as_table, "parquet": as_parquet, "json type": as_json_type}


def fates(found: Normalized, first: int = 0) -> list[Any]:
    """What became of each row, in order: its documents, or that it was set aside."""
    documents = [
        (doc_id - first, kind, roles, contents, json.loads(extra or "{}"), reason)
        for doc_id, kind, roles, contents, extra, reason in found.documents.select(
            "doc_id", "kind", "roles", "contents", "extra", "drop_reason"
        ).iter_rows()
    ]
    return sorted(
        [*documents, *((entry.doc_id - first,) for entry in found.quarantined)], key=lambda fate: fate[0]
    )


def read(data: bytes | pa.Table, rows: int, shape: Shape, first: int = 0) -> list[Any]:
    [source] = open_sources((SourceConfig(path="-", container="jsonl"),))
    width = shape.documents_per_row
    return fates(normalize(Block(0, 0, first, first, rows, rows, data), source, shape), width * first)


def documents_of(path: Any, **config: Any) -> list[Any]:
    sources = open_sources((SourceConfig(path=str(path), **config),))
    shape = detect_shape(sources[0])
    found = [normalize(block, sources[0], shape) for block in read_blocks(sources)]
    assert not [entry.reason for part in found for entry in part.quarantined]
    frame = pl.concat([part.documents for part in found])
    return [
        (roles, contents, json.loads(extra or "{}"))
        for roles, contents, extra in frame.select("roles", "contents", "extra").iter_rows()
    ]


def of_rows(tmp_path: Any, *rows: Row) -> list[Any]:
    (tmp_path / "rows.jsonl").write_bytes(as_lines(list(rows)))
    return documents_of(tmp_path / "rows.jsonl")


ASKED = [user("Tide?"), assistant("14:20.")]
