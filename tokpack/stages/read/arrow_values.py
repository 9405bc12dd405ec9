"""Values of Arrow tables as a line of JSON would hold them, whatever their types: for the row-by-row paths.

    struct           an object without its null keys: Arrow gives each row every key, so a null says nothing
    map              an object; its nulls were written and stay
    arrow.json       the JSON that its text holds; other extension types: what they store
    timestamp, date, time    ISO 8601, times with a zone in UTC: "2026-11-25T12:00:00+00:00"
    duration         ISO 8601: "PT90S"
    decimal          a number, or a text where a double would lose digits
    binary           its text, where it is UTF-8
    dictionary, run-end, list views, fixed-size lists    the values that they stand for

What JSON cannot hold stays `bytes` or becomes `Unwritable`: whoever needs the value refuses the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.frozen import frozen
from tokpack.stages.read.plain_types import is_list

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@frozen
class Unwritable:
    """A value that JSON cannot hold."""

    kind: str


def table_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as objects; a column that is null in a row is a key of null."""
    if not table.num_columns:
        return [{} for _ in range(table.num_rows)]
    columns = [[value for chunk in column.chunks for value in json_values(chunk)] for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def rows_at(table: pa.Table, positions: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """The rows at `positions`."""
    if len(positions) == table.num_rows:
        return table_rows(table)
    try:
        return table_rows(table.take(pa.array(positions)))
    except pa.ArrowNotImplementedError:  # of views and run ends
        rows = table_rows(table)
        return [rows[position] for position in positions.tolist()]


def json_values(array: pa.Array) -> list[Any]:
    """One value an entry; never raises for a type that it does not know."""
    with suppress(pa.ArrowException, ValueError, OverflowError, TypeError):
        return _read(array)
    return list(_one_by_one(array))


def _read(array: pa.Array) -> list[Any]:
    kind = array.type
    for test, read in _READERS:
        if test(kind):
            return read(array)
    return [_plain(value) for value in array.to_pylist()]


def _one_by_one(array: pa.Array) -> Iterator[Any]:
    """Of an array in which some value cannot be had."""
    for entry in array:
        try:
            yield _plain(entry.as_py())
        except (pa.ArrowException, ValueError, OverflowError, TypeError):
            yield Unwritable(str(array.type))


def _plain(value: Any) -> Any:
    """A Python value as JSON would hold it."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    for kinds, convert in _CONVERTERS:
        if isinstance(value, kinds):
            return convert(value)
    return Unwritable(type(value).__name__)


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _number(value: Decimal) -> int | float | str:
    if value == value.to_integral_value():
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else str(value)


def _duration(count: int, unit: str) -> str:
    seconds = Decimal(count) / PER_SECOND[unit]
    return f"PT{seconds.normalize():f}S"


_CONVERTERS: list[tuple[type | tuple[type, ...], Callable[[Any], Any]]] = [
    (dict, lambda value: {str(key): _plain(item) for key, item in value.items() if item is not None}),
    ((list, tuple), lambda value: [_plain(item) for item in value]),
    (bytes, _text),
    (Decimal, _number),
    ((datetime, date, time), lambda value: value.isoformat()),
    (timedelta, lambda value: _duration(value // timedelta(microseconds=1), "us")),
    (UUID, str),
]


# Readers: of nested types


def _structs(array: pa.Array) -> list[Any]:
    names = [array.type.field(number).name for number in range(array.type.num_fields)]
    columns = [json_values(child) for child in array.flatten()]
    rows: Iterator[tuple[Any, ...]] = zip(*columns, strict=True) if columns else iter([()] * len(array))
    valid = array.is_valid().to_pylist()
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not None} if there else None
        for there, row in zip(valid, rows, strict=True)
    ]


def _lists(array: pa.Array) -> list[Any]:
    values = json_values(array.flatten())
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return _cut(array, values, np.cumsum(np.append(0, lengths)))


def _cut(array: pa.Array, values: Any, ends: np.ndarray[Any, Any]) -> list[Any]:
    return [
        values[start:end] if there else None
        for there, (start, end) in zip(array.is_valid().to_pylist(), pairwise(ends.tolist()), strict=True)
    ]


def _maps(array: pa.Array) -> list[Any]:
    ends = array.offsets.to_numpy()
    keys, items = (
        json_values(column.slice(ends[0], ends[-1] - ends[0])) for column in (array.keys, array.items)
    )
    pairs = [(str(key), item) for key, item in zip(keys, items, strict=True)]
    return [entry if entry is None else dict(entry) for entry in _cut(array, pairs, ends - ends[0])]


def _dictionaries(array: pa.Array) -> list[Any]:
    values = json_values(array.dictionary)
    return [None if index is None else values[index] for index in array.indices.to_pylist()]


def _runs(array: pa.Array) -> list[Any]:
    values = json_values(array.values)
    logical = np.arange(array.offset, array.offset + len(array))
    runs = np.searchsorted(array.run_ends.to_numpy(), logical, side="right")
    return [values[run] for run in runs.tolist()]


def _extensions(array: Any) -> list[Any]:
    name = array.type.extension_name
    if name == "arrow.json":
        return [_parsed(text) for text in json_values(array.storage)]
    if name in ("arrow.uuid", "arrow.bool8"):
        return [_plain(value) for value in array.to_pylist()]
    return json_values(array.storage)


def _parsed(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return Unwritable("arrow.json without JSON")


# Readers: of values


def _timestamps(array: pa.Array) -> list[Any]:
    zone = "+00:00" if array.type.tz else ""
    naive = array.cast(pa.timestamp(array.type.unit))
    return [_iso(text, zone) for text in naive.cast(pa.string()).to_pylist()]


def _dates_and_times(array: pa.Array) -> list[Any]:
    return [_iso(text, "") for text in array.cast(pa.string()).to_pylist()]


def _iso(text: str | None, zone: str) -> Any:
    """Arrow's `2026-11-25 12:00:00.000000` as Python's isoformat."""
    if text is None:
        return None
    if text.startswith("<"):
        return Unwritable("a time out of range")
    whole, _, part = text.replace(" ", "T").partition(".")
    return f"{whole}.{part}{zone}" if part.strip("0") else whole + zone


def _durations(array: pa.Array) -> list[Any]:
    unit = array.type.unit
    counts = array.cast(pa.int64()).to_pylist()
    return [None if count is None else _duration(count, unit) for count in counts]


_READERS: list[tuple[Callable[[pa.DataType], bool], Callable[[Any], list[Any]]]] = [
    (lambda kind: isinstance(kind, pa.BaseExtensionType), _extensions),
    (pa.types.is_struct, _structs),
    (is_list, _lists),
    (pa.types.is_map, _maps),
    (pa.types.is_dictionary, _dictionaries),
    (pa.types.is_run_end_encoded, _runs),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_date, _dates_and_times),
    (pa.types.is_time, _dates_and_times),
    (pa.types.is_duration, _durations),
]
