"""What normalizing gives: documents in a frame, and rows that are none."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import polars as pl

from tokpack.frozen import frozen
from tokpack.stages.normalize.passed_over import PassedOver
from tokpack.terminal.printable import printable

DOCUMENT_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "doc_id": pl.Int64,
    "source": pl.Int32,
    "row": pl.Int64,
    "kind": pl.String,
    "roles": pl.List(pl.String),
    "contents": pl.List(pl.String),
    "extra": pl.String,
    "drop_reason": pl.String,
    "drop_detail": pl.String,
}
DESIRABLE = "desirable"
"""One more column of the documents of unpaired preferences."""


@frozen
class Quarantined:
    """An input row that is no document: where it stands, why, and its bytes as they were."""

    doc_id: int
    source: str
    row: int
    byte_offset: int
    reason: str
    raw: bytes

    def record(self) -> dict[str, Any]:
        """As `quarantine.jsonl` holds it."""
        record: dict[str, Any] = {
            "doc_id": self.doc_id,
            "source": self.source,
            "row": self.row,
            "byte_offset": self.byte_offset,
            "reason": printable(self.reason),
        }
        try:
            record["line"] = self.raw.decode("utf-8")
        except UnicodeDecodeError:
            record["line_base64"] = base64.b64encode(self.raw).decode("ascii")
        return record


@frozen
class Normalized:
    documents: pl.DataFrame
    quarantined: list[Quarantined]
    passed_over: Mapping[int, PassedOver] = field(default_factory=dict)
    """Of rows read together under the number of the first one's source."""


def text_documents(texts: list[str]) -> pl.DataFrame:
    """Plain text documents, numbered from 0."""
    count = len(texts)
    columns: dict[str, Any] = {
        "doc_id": range(count),
        "source": [0] * count,
        "row": range(1, count + 1),
        "kind": ["text"] * count,
        "roles": [["text"]] * count,
        "contents": [[text] for text in texts],
    }
    empty = dict.fromkeys(DOCUMENT_SCHEMA.keys() - columns.keys(), [None] * count)
    return pl.DataFrame(columns | empty, schema=DOCUMENT_SCHEMA)
