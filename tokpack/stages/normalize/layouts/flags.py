"""Columns that mark rows which mostly should not be trained: toxic ones, refusals, canaries of benchmarks.

{"toxic": true}, {"is_refusal": 1}, {"flagged": "yes"}             marked by what is true
{"openai_moderation": [{"flagged": false}, {"flagged": true}]}     by any that is flagged
{"canary": "... GUID 26b5c67b ..."}                                by a text
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.stages.normalize.fields import TRUTHS, as_json, is_filled
from tokpack.stages.normalize.message_columns import is_list, text_column

_MARKS = (
    *("toxic", "refusal", "refused", "flagged", "nsfw", "unsafe", "harmful", "offensive", "hateful", "spam"),
    *("duplicate", "duplicated", "contaminated", "deleted", "removed", "discarded", "excluded", "ignored"),
    *("invalid", "redacted", "skip", "skipped", "jailbreak"),
)
CANARIES = ("canary", "canary_string", "canary_guid")
MODERATION = ("openai_moderation", "moderation", "detoxify_moderation")
FLAGS = frozenset({*_MARKS, *(f"is_{mark}" for mark in _MARKS), *CANARIES, *MODERATION})


def flag_columns(present: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Columns of these names of which the first rows hold nothing but marks, or nothing."""
    rows = list(rows)
    return tuple(
        column
        for column in present
        if column.casefold() in FLAGS
        and all(marks(column, value) is not None for row in rows if is_filled(value := row.get(column)))
    )


def is_marked(column: str, value: Any) -> bool:
    return bool(marks(column, value))


def marks(column: str, value: Any) -> bool | None:
    """Whether a column marks its row; None where what it holds says neither."""
    name = column.rpartition(".")[2].casefold()
    value = as_json(value)
    if name in CANARIES:
        return isinstance(value, str) and is_filled(value.strip())
    if isinstance(value, Mapping):
        held = value.get("flagged")
        return held if isinstance(held, bool) else None
    if isinstance(value, list):
        found = [marks(column, one) for one in value]
        return None if None in found else any(found)
    if isinstance(value, bool | int | float | str):
        return TRUTHS.get(str(value).strip().casefold())
    return None


def marked_rows(column: pa.ChunkedArray, name: str) -> int:
    """How many rows of a column it marks."""
    if pa.types.is_boolean(column.type):
        return int(pc.sum(column).as_py() or 0)
    if is_list(column.type) and pa.types.is_struct(column.type.value_type):
        kind = column.type.value_type
        if kind.get_field_index("flagged") < 0 or not pa.types.is_boolean(kind.field("flagged").type):
            return 0
        lists = column.combine_chunks()
        flagged = pc.fill_null(pc.struct_field(pc.list_flatten(lists), "flagged"), False)
        return len(np.unique(pc.filter(pc.list_parent_indices(lists), flagged).to_numpy()))
    if text_column(column) is not None or pa.types.is_primitive(column.type):
        counts = column.value_counts().to_pylist()
        return sum(one["counts"] for one in counts if is_marked(name, one["values"]))
    return sum(is_marked(name, value) for value in column.to_pylist())
