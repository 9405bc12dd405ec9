"""Columns of texts and messages as polars series: what the fast path of `normalize` is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.stages.normalize.rows import ROLE_ALIASES

Bools = npt.NDArray[np.bool_]

OPENAI = ("role", "content")
SHAREGPT = ("from", "value")


def text_column(column: pa.ChunkedArray) -> pl.Series | None:
    """A column of strings and nulls; None for any other."""
    return pl.Series(pl.from_arrow(column.cast(pa.large_string()))) if is_text(column.type) else None


def message_lists(
    column: pa.ChunkedArray,
    keys: tuple[str, str],
    slow: Bools,
    reads: Callable[[str], bool] = lambda key: True,
) -> tuple[pl.Series, pl.Series] | None:
    """(roles, contents), a list a row, of a column of message lists with `keys` for role and content.

    Marks in `slow` the rows that hold more in a field that is read; None for a column of another type.
    """
    role_key, content_key = keys
    lists = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not is_list(lists.type):
        return None
    struct = lists.type.value_type
    if not pa.types.is_struct(struct) or {role_key, content_key} - {field.name for field in struct}:
        return None
    if not all(is_text(struct.field(key).type) for key in (role_key, content_key)):
        return None
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    messages = lists.flatten()
    odd = messages.is_null().to_numpy(zero_copy_only=False)
    elsewhere = ~filled(pc.struct_field(messages, content_key))
    for field in struct:
        if field.name not in (role_key, content_key):
            more = filled(pc.struct_field(messages, field.name))
            odd = odd | (more if reads(field.name) else more & elsewhere)
    roles = pc.struct_field(messages, role_key).cast(pa.large_string())
    if role_key == "from":
        named = pl.Series(pl.from_arrow(roles))
        odd = odd | named.is_in(["function_call", "tool_call"]).fill_null(False).to_numpy()
        roles = named.replace(ROLE_ALIASES).to_arrow().cast(pa.large_string())
    contents = pc.struct_field(messages, content_key).cast(pa.large_string())
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    slow[document_of[odd]] = True
    slow |= lists.is_null().to_numpy(zero_copy_only=False)
    pair = [
        pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(offsets, flat))) for flat in (roles, contents)
    ]
    return pair[0], pair[1]


def keys_of(column: pa.DataType) -> tuple[str, str]:
    """How the messages of a column name role and content."""
    struct = column.value_type if is_list(column) else column
    if not pa.types.is_struct(struct):
        return OPENAI
    names = {field.name for field in struct}
    return SHAREGPT if "from" in names and "role" not in names else OPENAI


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def filled(column: Any) -> Bools:
    """Which values are not null."""
    valid = pc.is_valid(column)
    result: Bools = valid.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else valid.to_numpy()
    return result
