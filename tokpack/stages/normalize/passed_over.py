"""What rows hold and no document does: columns that begin after the first rows, and rows that are there to
test with, as a column `split` says, or marked as not to be trained, as `toxic` says.

Looked for by column, or in the rows that are read one by one anyway; both are told at the end of pass 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.arrays import Int64
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import OTHER_SPLIT
from tokpack.stages.normalize.chats.calls import TOOLS
from tokpack.stages.normalize.chats.turns import are_bare, as_messages
from tokpack.stages.normalize.fields import as_json, is_filled, root, value_at
from tokpack.stages.normalize.layouts.flags import is_marked, marked_rows
from tokpack.stages.normalize.message_columns import (
    Bools,
    filled,
    is_list,
    is_text,
    says_something,
    text_column,
)
from tokpack.stages.normalize.values import shown

if TYPE_CHECKING:
    from tokpack.stages.normalize.shape import Shape

_NAMES = r"test(?:ing)?|valid(?:ation)?|val|dev|eval(?:uation)?|held[_-]?out|hold[_-]?out"
_HELD_BACK = rf"(?i)^\s*(?:{_NAMES})(?:[_\s\d-]|$)"
MOST = 50
"""Columns of a block that are named."""
MOST_CHATS = 20
"""Chats of a block that are looked into for one field."""


@frozen
class PassedOver:
    unread: Mapping[str, str] = field(default_factory=dict)
    """Column, or field of messages, that the first rows do not fill and nothing reads -> an example."""
    held_back: Mapping[str, int] = field(default_factory=dict)
    """Column of splits that nothing reads -> rows that it calls test, validation or the like."""
    marked: Mapping[str, int] = field(default_factory=dict)
    """Column of marks that nothing reads -> rows that it marks as toxic, refused or the like."""

    def plus(self, other: PassedOver) -> PassedOver:
        """Of both; examples are the first ones."""
        return PassedOver(
            {**self.unread, **{k: v for k, v in other.unread.items() if k not in self.unread}},
            dict(Counter(self.held_back) + Counter(other.held_back)),
            dict(Counter(self.marked) + Counter(other.marked)),
        )


def record_of(found: Mapping[int, PassedOver]) -> dict[str, Any]:
    """As JSON holds it; without sources of which there is nothing to say."""
    return {str(source): asdict(over) for source, over in found.items() if over != PassedOver()}


def of_record(record: Mapping[str, Any]) -> dict[int, PassedOver]:
    return {int(source): PassedOver(**over) for source, over in record.items()}


def together(found: Iterable[Mapping[int, PassedOver]]) -> dict[int, PassedOver]:
    """By source, of all that was found; examples are the first ones."""
    made: dict[int, PassedOver] = {}
    for some in found:
        for source, over in some.items():
            made[source] = made.get(source, PassedOver()).plus(over)
    return made


def is_held_back(split: Any) -> bool:
    """Whether a row of that split is there to test with."""
    return isinstance(split, str) and re.match(_HELD_BACK, split) is not None


def are_held_back(texts: pl.Series) -> pl.Series:
    """The same of a column."""
    return texts.str.contains(_HELD_BACK).fill_null(False)


def in_table(table: pa.Table, shape: Shape) -> PassedOver:
    unread: dict[str, str] = {}
    known = shape.accounted_for()
    for name in [name for name in table.column_names if name not in known][:MOST]:
        column = table.column(name)
        if column.null_count < len(column) and len(places := np.flatnonzero(says_something(column))):
            value = column[int(places[0])].as_py()
            unread |= {name: shown(value)} if is_filled(value) else {}
    unread |= _fields_in_table(table, shape)
    counts = {}
    for name in set(table.column_names) & set(shape.splits):
        if (texts := text_column(table.column(name))) is not None:
            counts[name] = int(are_held_back(texts).sum())
    held = set(table.column_names) & set(shape.flags)
    marked = {name: count for name in sorted(held) if (count := marked_rows(table.column(name), name))}
    return PassedOver(unread, {name: count for name, count in counts.items() if count}, marked)


def _fields_in_table(table: pa.Table, shape: Shape) -> dict[str, str]:
    """Fields of messages that no row before had and nothing reads -> an example."""
    found: dict[str, str] = {}
    for name in set(shape.columns.values()) & set(table.column_names):
        kind = table.column(name).type
        if not is_list(kind) or not pa.types.is_struct(kind.value_type):
            continue
        keys = [key.name for key in kind.value_type]
        new = [key for key in keys if not _read_or_told(key, name, shape)]
        messages = pc.list_flatten(table.column(name)) if new else None
        for key in new if len(set(keys)) == len(keys) else ():
            values = pc.struct_field(messages, key)
            said = says_something(values)
            if key in TOOLS:
                said = said & _misplaced(messages, keys, shape).to_numpy()
            value = _left_unread(table.column(name), np.flatnonzero(said), key)
            found |= {f"{name}.{key}": shown(value)} if is_filled(value) else {}
    return dict(list(found.items())[:MOST])


def _left_unread(chats: pa.ChunkedArray, places: Int64, key: str) -> Any:
    """The field of the first message at `places`, counted over all chats, that still has it under that name
    when its chat is written as messages: services have the role or the text under names of their own."""
    ends = np.cumsum(pc.fill_null(pc.list_value_length(chats), 0).to_numpy())
    for row in np.unique(np.searchsorted(ends, places, side="right"))[:MOST_CHATS].tolist():
        chat = [dict(_filled_fields([message])) for message in chats[row].as_py()]
        for message in as_messages(chat) or chat:
            if is_filled(message.get(key)):
                return message[key]
    return None


def _read_or_told(key: str, column: str, shape: Shape) -> bool:
    """Whether a field is read in every message, or told of already."""
    by_template = shape.readable is None or key in shape.readable
    read = by_template if key in TOOLS else shape.reads(key)
    return read or f"{column}.{key}" in shape.unread


def _misplaced(messages: pa.ChunkedArray, keys: list[str], shape: Shape) -> pa.ChunkedArray:
    """In which messages nothing but a template reads tools."""
    columns = [pc.struct_field(messages, key) for key in ("role", "from") if key in keys]
    texts = [column.cast(pa.large_string()) for column in columns if is_text(column.type)]
    if not texts:
        return pa.chunked_array([np.zeros(len(messages), np.bool_)])
    roles = pc.coalesce(*texts)
    wrong = [role for role in pc.unique(roles).to_pylist() if shape.misplaced({"role": role, TOOLS[0]: 1})]
    return pc.is_in(roles, pa.array(wrong, roles.type))


def fields_in_rows(rows: Iterable[Any], shape: Shape) -> dict[str, str]:
    """The same of rows that are read one by one."""
    found: dict[str, str] = {}
    if shape.readable is None:
        return found
    for path in shape.columns.values():
        known = {name[len(path) + 1 :] for name in shape.unread if name.startswith(f"{path}.")}
        known |= shape.readable
        for row in rows:
            if isinstance(row, dict) and (new := _new_keys(value_at(row, path), known)):
                for message in as_messages(value_at(row, path)) or ():
                    for key, value in _filled_fields([message]):
                        if not _read_or_told(key, path, shape) and _is_unread(key, message, shape):
                            found.setdefault(_told(f"{path}.{key}"), _told(shown(value)))
                known |= new - {key for key in TOOLS if f"{path}.{key}" not in found}
    return dict(list(found.items())[:MOST])


def _is_unread(key: str, message: Any, shape: Shape) -> bool:
    return key not in TOOLS or bool(shape.misplaced(message))


def _new_keys(value: Any, known: set[str]) -> set[str]:
    """Filled keys of messages, as the row has them, that are none of `known`."""
    if are_bare(value):
        return set()
    messages = as_json(value)
    return {key for key, _ in _filled_fields(messages if isinstance(messages, list) else ())} - known


def _filled_fields(messages: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for message in messages:
        if isinstance(message, dict):
            yield from ((key, value) for key, value in message.items() if is_filled(value))


def in_rows(rows: Iterable[Any], shape: Shape) -> PassedOver:
    """Of rows that are read one by one; what is none is left out."""
    unread: dict[str, str] = {}
    counts: Counter[str] = Counter()
    marked: Counter[str] = Counter()
    known = shape.accounted_for()
    rows = list(rows)
    for row in rows:
        if isinstance(row, dict):
            new = row.keys() - known - unread.keys()
            unread |= {_told(name): _told(shown(row[name])) for name in sorted(new) if is_filled(row[name])}
            counts.update(name for name in shape.splits if is_held_back(row.get(name)))
            marked.update(name for name in shape.flags if is_marked(name, row.get(name)))
    unread = dict(list(unread.items())[:MOST]) | fields_in_rows(rows, shape)
    return PassedOver(unread, dict(counts), dict(marked))


def _told(text: str) -> str:
    """With halves of surrogate pairs, which JSON can hold and no file of ours, as they are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def other_splits(table: pa.Table, path: str | None, slow: Bools) -> pl.Series | None:
    """Why rows are left out by the column of splits that the user named, null for the others. Marks in `slow`
    the rows whose split stands in no column of texts."""
    column = root(path, table.column_names) if path else None
    if column not in table.column_names:
        return None
    texts = text_column(table.column(column)) if column == path else None
    if texts is None:
        slow |= filled(table.column(column))
        return None
    held_back = pl.DataFrame({"held_back": are_held_back(texts)})
    return held_back.select(pl.when("held_back").then(pl.lit(OTHER_SPLIT))).to_series()
