"""Conversations of two without names that a template knows, or without any, and files of a row for each
turn. They are refused with what writes them as messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokpack.stages.normalize.chats.blocks import CONTENT_KEYS, ROLE_KEYS
from tokpack.stages.normalize.chats.roles import is_unknown, role_name
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import Row, as_json, is_filled
from tokpack.stages.normalize.layouts.commands import ROWS, at
from tokpack.stages.normalize.layouts.layouts import Layout
from tokpack.stages.normalize.values import turned

GROUPS = (
    *("conversation_id", "conv_id", "dialogue_id", "dialog_id", "chat_id", "thread_id", "session_id"),
    *("conversation_hash", "conversation", "dialogue", "dialog", "conv"),
)
"""Columns that say to which conversation a turn belongs."""
PLACES = (
    *(
        "utterance_idx",
        "utterance_id",
        "turn_idx",
        "turn_index",
        "turn_id",
        "turn_number",
        "turn_num",
        "turn",
    ),
    *("message_index", "message_idx", "msg_idx", "position", "index", "idx"),
)
"""Columns that say where in it."""
TALKS = ("log", "dialog_turns", "dialogue_turns", "utterances", "exchanges")
"""Further columns of turns that follow each other."""
_TWO = '["user", "assistant"]'


def find_turns(rows: Sequence[Row]) -> Layout | None:
    """The layout of a file with a row for each turn of its conversations; None for all others."""
    columns = {column.casefold(): column for row in rows for column in row}
    group = next((columns[name] for name in GROUPS if name in columns and _repeats(columns[name], rows)), "")
    text = next(
        (columns[name] for name in CONTENT_KEYS if name in columns and _says(columns[name], rows)), ""
    )
    place = next((columns[name] for name in PLACES if name in columns), "")
    role = next((columns[name] for name in ROLE_KEYS if name in columns and _names(columns[name], rows)), "")
    if not group or not text or not (role or place):
        return None
    order = f" | sort_by({at(place)} | tonumber? // .)" if place else ""
    turn = f".[] | {{role: {at(role)}, content: {at(text)}}}"
    if not role:
        turn = f"to_entries[] | {{role: {_TWO}[.key % 2], content: .value{at(text)}}}"
    return Layout(
        name="turns one by one",
        reason=f"each row is one turn: {text} of the conversation that {group} names",
        hint=f"jq -cs 'group_by({at(group)})[]{order} | {{messages: [{turn}]}}' FILE > rows.jsonl writes a "
        f"conversation a row{'' if role else ', its turns as user and assistant'}; --map text={text} trains "
        "each turn alone",
    )


def _repeats(column: str, rows: Sequence[Row]) -> bool:
    """Whether each row has one text or number there, and some rows have the same."""
    values = [row.get(column) for row in rows]
    alone = all(isinstance(value, str | int) and is_filled(value) for value in values)
    return alone and len(set(values)) < len(values)


def _says(column: str, rows: Sequence[Row]) -> bool:
    texts = [value for row in rows if is_filled(value := row.get(column))]
    return bool(texts) and all(isinstance(text, str) for text in texts)


def _names(column: str, rows: Sequence[Row]) -> bool:
    """Whether a column names roles that templates know."""
    names = [row.get(column) for row in rows]
    return all(isinstance(name, str) and not is_unknown(role_name(name)) for name in names)


def way_of_dialog(column: str, values: Sequence[Any], is_named: bool = False) -> str:
    """What writes a column of turns as messages, where numbers say who speaks, or nothing does; empty for all
    others. `is_named`: the column has the name of one that holds turns."""
    lists = [_turns(value) for value in values]
    if not lists or not all(lists):
        return ""
    turns = [turn for held in lists for turn in held]
    text = next((key for key in CONTENT_KEYS if all(isinstance(turn.get(key), str) for turn in turns)), "")
    speaker = next((key for key in ROLE_KEYS if any(key in turn for turn in turns)), "")
    numbers = bool(speaker) and all(str(turn.get(speaker)) in ("0", "1") for turn in turns)
    alone = not speaker and (is_named or column.casefold() in TALKS) and any(len(held) > 1 for held in lists)
    if not text or not (numbers or alone) or any(map(as_messages, lists)) != numbers:
        return ""
    listed = f"{at(column)}[]"
    if isinstance(as_json(values[0]), Mapping):
        listed = f"{at(column)} | [.{speaker or text}, .{text}] | transpose[] | {{s: .[0], t: .[1]}}"
        speaker, text = ("s" if speaker else ""), "t"
    if numbers:
        made = f"{listed} | {{role: {_TWO}[.{speaker} | tonumber], content: .{text}}}"
        who = f"{column} has numbers for its speakers: where 0 is the user"
    else:
        made = f"[{listed}] | to_entries[] | {{role: {_TWO}[.key % 2], content: .value.{text}}}"
        who = f"{column} does not say who speaks: where user and assistant take turns"
    return f"{who}, {ROWS.format(f'. + {{messages: [{made}]}} | del({at(column)})')} writes them as messages"


def _turns(value: Any) -> list[Mapping[str, Any]]:
    """A list of objects, also as an object of lists; empty for anything else."""
    held = as_json(value)
    held = turned(held) if isinstance(held, dict) else held
    turns: list[Mapping[str, Any]] = held if isinstance(held, list) else []
    return turns if all(isinstance(item, Mapping) for item in turns) else []
