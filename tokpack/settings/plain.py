"""Frozen dataclasses as plain data and back: JSON is made and read at the edge, values travel inside."""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from tokpack.errors import DataError

T = TypeVar("T")
LEFT_OUT = {"left out": True}
"""Metadata of a field that is not in the plain data where it is None."""
KEY = "key"
"""Metadata of a field that has another name in the plain data: `{KEY: "from"}`."""


def to_plain(value: Any) -> Any:
    """Dataclasses as dicts in the order of their fields, also within lists, tuples and dicts."""
    if is_dataclass(value):
        held = [(field, getattr(value, field.name)) for field in fields(value)]
        shown = ((f, v) for f, v in held if v is not None or "left out" not in f.metadata)
        return {f.metadata.get(KEY, f.name): to_plain(v) for f, v in shown}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value


def from_plain(kind: type[T], data: Any, place: str) -> T:
    """What `to_plain` was given; fields that `kind` does not know are ignored.

    `place`: where the data stand, such as `cost`. Raises DataError that names the first value which is
    missing or of another type.
    """
    return cast(T, _read(kind, data, place))


def _read(kind: Any, value: Any, place: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        [kind] = [each for each in inner if each is not type(None)]
        return None if value is None else _read(kind, value, place)
    if origin in (list, tuple, dict) and isinstance(value, list if origin is tuple else origin):
        return _read_items(kind, value, place)
    if is_dataclass(kind) and isinstance(value, dict):
        return _read_fields(cast(type, kind), value, place)
    if kind is Any or (origin is Literal and value in inner) or (isinstance(kind, type) and _is(value, kind)):
        return value
    shown = "missing" if value is None else f"a {type(value).__name__}"
    raise DataError(
        f"the report is damaged: {place} is {shown}",
        where="report.json",
        hint="write it again: tokpack analyze DATA --json > report.json",
    )


def _read_items(kind: Any, value: Any, place: str) -> Any:
    """A tuple has a kind for each item."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is dict:
        return {str(key): _read(inner[1], item, f"{place}.{key}") for key, item in value.items()}
    kinds = inner if origin is tuple else inner * len(value)
    if len(kinds) != len(value):
        return _read(kinds[0], None, f"{place}[{min(len(kinds), len(value))}]")
    items = zip(kinds, value, strict=True)
    return origin(_read(of, item, f"{place}[{number}]") for number, (of, item) in enumerate(items))


def _read_fields(kind: type, value: dict[str, Any], place: str) -> Any:
    hints, read = _hints(kind), {}
    for field in fields(kind):
        key = field.metadata.get(KEY, field.name)
        if key in value or field.default is MISSING:
            read[field.name] = _read(hints[field.name], value.get(key), f"{place}.{key}" if place else key)
    return kind(**read)


@cache
def _hints(kind: type) -> dict[str, Any]:
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in fields(kind)}


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
