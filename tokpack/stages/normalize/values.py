"""Values of one row: texts, JSON inside texts, and how the reasons of quarantine call them."""

from __future__ import annotations

import json
import re
from functools import cached_property
from math import isnan
from typing import Any

from tokpack.stages.read.arrow_values import Unwritable

NOTHING = frozenset({"", "[]", "{}", "null", "none", "nan"})
"""Texts that say that there is nothing: what a null or an empty list becomes on its way through files."""
NOTHING_MORE = "{}"
"""What a message without further fields has in a document's `extra`."""
WIDTH = 32
"""Characters shown of an example value."""
_LONGEST_NOTHING = max(map(len, NOTHING))
_REPR = re.compile(r"\s*(\[\s*)?\{\s*'")
"""How Python writes a list of dictionaries, or one."""


UNFORESEEN = "tokpack cannot read it, which is a fault of tokpack: "


class RowError(ValueError):
    """The row is not of the shape it should be; the message is the reason shown to the user."""


def reason_of(error: Exception) -> str:
    """Why a row is set aside. What no check foresaw ends no run either; the fuzz suite looks for it."""
    if isinstance(error, RowError):
        return str(error)
    return f"{UNFORESEEN}{type(error).__name__}: {error}"


def is_nothing(value: Any) -> bool:
    """Null, an empty list or object, or a text that says so."""
    if isinstance(value, str):
        core = value.strip()
        return len(core) <= _LONGEST_NOTHING and core.lower() in NOTHING
    return is_missing(value) or value in ([], {})


def is_missing(value: Any) -> bool:
    """Null, or the NaN that pandas leaves where a cell has no value, and that Python's JSON writes."""
    return value is None or (type(value) is float and isnan(value))


def shown(value: Any) -> str:
    """A value on one line, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def decoded(value: Any, where: str) -> Any:
    """The value that JSON in a text stands for, however often it was put into a text; others as they are.

    Raises RowError for a text that is no JSON.
    """
    while isinstance(value, str):
        if is_nothing(value):
            return None
        value = parsed(value, where)
    return value


def parsed(value: str, where: str) -> Any:
    """One text of JSON."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    if is_repr(value):
        raise RowError(f"{where} is what Python prints, not JSON: write it with json.dumps")
    raise RowError(f"{where} is not JSON")


def is_repr(value: Any) -> bool:
    """Whether a text is a list of dictionaries, or one, as Python prints it: with single quotes."""
    return isinstance(value, str) and _REPR.match(value) is not None


def turned(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """`{"role": ["user"], "content": ["Hi"]}`, an object of lists of one length, as a list of objects."""
    lists = {key: items for key, items in value.items() if items is not None}
    if not all(isinstance(items, list) for items in lists.values()):
        return None
    if len({len(items) for items in lists.values()}) != 1:
        return None
    rows = zip(*lists.values(), strict=True)
    return [{key: item for key, item in zip(lists, row, strict=True) if item is not None} for row in rows]


def read_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{where} is {kind_of(value)}, not a string")
    return str(checked(value, where))


def checked(value: str | None, where: str) -> str | None:
    """Half a surrogate pair, as in `"\\ud83d"`, is no text and cannot be tokenized."""
    if value is not None and not is_text(value):
        raise RowError(f"{where} holds half a surrogate pair")
    return value


def is_text(value: str) -> bool:
    """Whether Unicode has it: no half of a surrogate pair."""
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Dumped(list[Any]):
    """A list that is not changed, and its JSON, made once."""

    @cached_property
    def json(self) -> str:
        return _json(self)


_json = json.JSONEncoder(ensure_ascii=False).encode


def dump(document: dict[str, Any]) -> str:
    """JSON of what only the template understands. Raises RowError for what JSON cannot hold."""
    try:
        fields = [
            f'"{key}": {value.json if isinstance(value, Dumped) else _json(value)}'
            for key, value in document.items()
        ]
    except TypeError:
        raise RowError("tools or message fields hold bytes or a value that JSON cannot hold") from None
    return str(checked(f"{{{', '.join(fields)}}}", "a tool, a message or an argument of the template"))


def kind_of(value: Any) -> str:
    kinds = {
        type(None): "missing",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        bytes: "bytes",
    }
    if isinstance(value, Unwritable):
        return f"a value that JSON cannot hold ({value.kind})"
    return kinds.get(type(value), "an object" if isinstance(value, dict) else "a list")
