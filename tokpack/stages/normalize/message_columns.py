"""Columns of texts and messages as polars series: what the fast path of `normalize` is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.stages.messages import in_lists
from tokpack.stages.normalize.chats.roles import CALLS, Speakers, role_names
from tokpack.stages.normalize.values import NOTHING, NOTHING_MORE

Bools = npt.NDArray[np.bool_]
ReadCalls = Callable[[Sequence[str]], list[str | None]]

OPENAI = ("role", "content")
SHAREGPT = ("from", "value")
_TALK = r"^[\s\x1c-\x1f]*(\[\s*\{|\{\s*\"|Human:)"


def says_something(column: pa.ChunkedArray) -> Bools:
    """Which rows hold more than what `is_nothing` names."""
    if is_list(column.type):
        result: Bools = pc.fill_null(pc.greater(pc.list_value_length(column), 0), False).to_numpy()
        return result
    texts = text_column(column)
    if texts is None:
        return filled(column)
    nothing = texts.str.strip_chars().str.to_lowercase().is_in(list(NOTHING))
    return (~nothing.fill_null(True)).to_numpy()


def holds_talk(texts: pl.Series) -> Bools:
    """Which texts may be messages in JSON, or turns of `Human:` and `Assistant:`."""
    return texts.str.contains(_TALK).fill_null(False).to_numpy()


def text_column(column: pa.ChunkedArray) -> pl.Series | None:
    """A column of strings and nulls; None for any other."""
    return pl.Series(pl.from_arrow(column.cast(pa.large_string()))) if is_text(column.type) else None


def message_lists(
    column: pa.ChunkedArray,
    slow: Bools,
    reads: Callable[[str], bool] = lambda key: True,
    read_calls: ReadCalls | None = None,
    speakers: Speakers = MappingProxyType({}),
) -> tuple[pl.Series, pl.Series, pl.Series | None] | None:
    """(roles, contents, further fields), a list a row, of a column of message lists.

    Marks in `slow` the rows that hold more in a field that is read; None for a column of another type.
    `read_calls` makes JSON of further fields from the contents of turns that are calls, None where it cannot;
    without it, or where no turn of the rows that are not slow is a call, there are no further fields.
    """
    lists = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not is_list(lists.type):
        return None
    messages = lists.flatten()
    keys = _keys(messages)
    if keys is None:
        return None
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    odd = messages.is_null().to_numpy(zero_copy_only=False)
    roles, contents = (pc.struct_field(messages, key).cast(pa.large_string()) for key in keys)
    silent = ~filled(contents)
    elsewhere = silent | ~filled(roles)
    for field in messages.type:
        if field.name not in keys:
            more = filled(pc.struct_field(messages, field.name))
            odd = odd | (more if reads(field.name) else more & elsewhere)
    odd = odd | (silent & ~filled(roles))
    named = role_names(pl.Series(pl.from_arrow(roles)), speakers)
    calls = named.is_in(CALLS).fill_null(False).to_numpy()
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    slow |= lists.is_null().to_numpy(zero_copy_only=False)
    odd = odd | (calls & (~filled(contents) if read_calls else True))
    slow[document_of[odd]] = True
    texts = pl.Series(pl.from_arrow(contents))
    found = None
    if read_calls and len(places := np.flatnonzero(calls & ~slow[document_of])):
        read = read_calls(texts.gather(places).to_list())
        slow[document_of[places[[json is None for json in read]]]] = True
        nothing = pl.Series([NOTHING_MORE]).new_from_index(0, len(texts))
        found = in_lists(nothing.scatter(places, pl.Series(read, dtype=pl.String)), offsets)
        named, texts = named.scatter(places, "assistant"), texts.scatter(places, "")
    return in_lists(named, offsets), in_lists(texts, offsets), found


def _keys(messages: pa.Array) -> tuple[str, str] | None:
    """Under which keys messages hold role and content; None where they are not texts."""
    if not pa.types.is_struct(messages.type):
        return None
    names = [field.name for field in messages.type]
    found = [
        keys
        for keys in (OPENAI, SHAREGPT)
        if all(names.count(key) == 1 and is_text(messages.type.field(key).type) for key in keys)
    ]
    if len(set(names)) < len(names) or not found:
        return None
    return next((keys for keys in found if filled(pc.struct_field(messages, keys[0])).any()), found[0])


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def filled(column: Any) -> Bools:
    """Which values are not null."""
    valid = pc.is_valid(column)
    result: Bools = valid.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else valid.to_numpy()
    return result
