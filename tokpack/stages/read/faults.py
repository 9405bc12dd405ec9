"""Rows of tables that cannot be read: they keep their place, are empty, and say what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tokpack.frozen import frozen
from tokpack.stages.read.arrow_values import rows_at

UNREADABLE = "tokpack:unreadable"
"""Column of a table with unreadable rows: null, or the fault. A file's own such column is left out."""
FAULT = pa.struct([("reason", pa.string()), ("raw", pa.binary())])


@frozen
class Unreadable:
    """A row that is none: why, and its bytes as they were."""

    reason: str
    raw: bytes


def readable_rows(
    table: pa.Table, positions: np.ndarray[Any, Any] | None = None
) -> list[dict[str, Any] | Unreadable]:
    """The rows of a table that a reader made, or those at `positions`, as Python values."""
    where = np.arange(table.num_rows) if positions is None else positions
    if UNREADABLE not in table.column_names:
        return list(rows_at(table, where))
    faults = table.column(UNREADABLE).take(pa.array(where)).to_pylist()
    rows = rows_at(table.drop_columns([UNREADABLE]), where)
    return [Unreadable(**fault) if fault else row for fault, row in zip(faults, rows, strict=True)]


def with_faults(table: pa.Table, faults: dict[int, Unreadable]) -> pa.Table:
    """The table with these rows, by position, unreadable."""
    parts, done = [], 0
    nothing = pa.Table.from_arrays([pa.nulls(1, kind) for kind in table.schema.types], schema=table.schema)
    for position in sorted(faults):
        parts += [table.slice(done, position - done), nothing]
        done = position + 1
    told = [
        {"reason": fault.reason, "raw": fault.raw} if (fault := faults.get(position)) else None
        for position in range(table.num_rows)
    ]
    return pa.concat_tables([*parts, table.slice(done)]).append_column(UNREADABLE, pa.array(told, FAULT))
