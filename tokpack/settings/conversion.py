"""Plain data as typed values: dataclasses from tables, with errors that name the key."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tokpack.errors import SettingError, near_matches

KINDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def convert(kind: Any, value: Any, where: str) -> Any:  # noqa: PLR0911 - one return a kind
    """`value` as `kind`: dataclasses from dicts, tuples from lists, Literals and scalars checked."""
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise SettingError(
                f"{value!r} is not a choice", where=where, hint=near_matches(str(value), get_args(kind))
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong_type(value, "a list", where)
        return tuple(convert(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        item_kind = get_args(kind)[1]
        if not isinstance(value, dict):
            raise _wrong_type(value, "a table", where)
        if item_kind is str and not all(isinstance(v, str) for v in value.values()):
            raise _wrong_type(value, "a table of strings", where)
        return {key: convert(item_kind, item, f"{where}.{key}") for key, item in value.items()}
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else convert(get_args(kind)[0], value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong_type(value, KINDS.get(kind, kind.__name__), where)
    return value


def _convert_dataclass(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value):
        return value
    hints = get_type_hints(kind)
    if not isinstance(value, dict):
        hint = f"write it as a table, with its keys: {', '.join(hints)}"
        raise SettingError(f"{value!r} is not a table", where=where, hint=hint)
    unknown = [key for key in value if key not in hints]
    if unknown:
        raise SettingError(f"unknown key {unknown[0]!r}", where=where, hint=near_matches(unknown[0], hints))
    required = [
        f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in value]
    if missing:
        raise SettingError(f"key {missing[0]!r} is missing", where=where, hint="add it to the table")
    return kind(**{key: convert(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _wrong_type(value: Any, wanted: str, where: str) -> SettingError:
    return SettingError(f"{value!r} is not {wanted}", where=where, hint=f"give {wanted}")
