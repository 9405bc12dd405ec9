"""Files whose rows stand inside one another, or in pieces: one object with all rows in it, a message a row.

They are told from chats and texts before a hint is made of their columns, so that none takes a part for all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokpack.stages.normalize.chats.blocks import CONTENT_KEYS, ROLE_KEYS
from tokpack.stages.normalize.chats.roles import CALLS, ROLE_ALIASES, role_name
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import Row, as_json

_ROLES = frozenset({*ROLE_ALIASES, *ROLE_ALIASES.values(), *CALLS})


def way_to_rows(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """What writes the rows one a line; empty where they stand so."""
    return _way_out_of_one(columns, rows[0]) if len(rows) == 1 else ""


def are_messages(rows: Sequence[Row]) -> bool:
    """Whether every row is one message, with a role and a content of its own."""
    return bool(rows) and all(map(_is_message, rows))


def _is_message(row: Row) -> bool:
    role = next((row[key] for key in ROLE_KEYS if key in row), None)
    text = any(isinstance(row.get(key), str) for key in CONTENT_KEYS)
    named = isinstance(role, str) and role_name(role) in _ROLES
    return (
        text and named and not any(isinstance(value, list) and as_messages(value) for value in row.values())
    )


def _way_out_of_one(columns: Sequence[str], row: Row) -> str:
    values = [as_json(row.get(column)) for column in columns]
    for column, value in zip(columns, values, strict=True):
        if isinstance(value, list) and len(value) > 1 and all(map(_is_whole_row, value)):
            return f"{column} holds {len(value):,} rows: {_ONE_A_LINE.format(f'.{json.dumps(column)}[]')}"
    if len(columns) > 1 and all(map(_is_row, values)) and len({tuple(value) for value in values}) == 1:
        if all(str(key).isdigit() for key in values[0]):
            return _OF_PANDAS
        return f"each key holds a row: {_ONE_A_LINE.format('.[]')}"
    lengths = {len(value) if isinstance(value, list) else 0 for value in values}
    if len(columns) > 1 and len(lengths) == 1 and lengths.pop() > 1 and not any(map(_holds_objects, values)):
        return _OF_PANDAS
    return ""


_ONE_A_LINE = "jq -c '{}' FILE > rows.jsonl writes one a line"
_OF_PANDAS = (
    "the file is one object with all values of a column together: "
    "pandas.read_json(FILE).to_json('rows.jsonl', orient='records', lines=True) writes a row a line"
)


def _is_row(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and not value.keys() & {*ROLE_KEYS, "type"}


def _is_whole_row(value: Any) -> bool:
    """Whether it holds what is asked and answered, or a chat."""
    return _is_row(value) and (as_messages([value]) is not None or any(map(as_messages, value.values())))


def _holds_objects(values: list[Any]) -> bool:
    return any(isinstance(value, Mapping) for value in values)
