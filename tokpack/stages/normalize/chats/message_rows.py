"""Messages of one row: from the shapes in which data holds them to role, content and further fields.

A list of objects, or JSON of it in a text; a list of JSON texts; an object of lists. A message says who
speaks in `role` or `from`, and what in `content` or `value`.
"""

from __future__ import annotations

import json
from typing import Any

from tokpack.stages.messages import HOLDS_DATA, is_data
from tokpack.stages.normalize.chats.calls import read_calls, take_calls
from tokpack.stages.normalize.chats.media import MEDIA, holds_media
from tokpack.stages.normalize.chats.reasoning import take_reasoning
from tokpack.stages.normalize.chats.responses import has_items
from tokpack.stages.normalize.chats.roles import CALLS, role_name
from tokpack.stages.normalize.chats.training import speaks_of_training, take_directions
from tokpack.stages.normalize.fields import OF_MESSAGES, as_json
from tokpack.stages.normalize.values import (
    RowError,
    checked,
    decoded,
    is_missing,
    is_repr,
    is_text,
    kind_of,
    parsed,
    read_text,
    turned,
)

Turn = tuple[str | None, str | None, dict[str, Any]]
"""Role, content, further fields."""


_ONE_PART = {"type", "text"}


def message_list(value: Any, where: str) -> list[Any]:
    """The messages as they are. Raises RowError for what is no list of them."""
    while isinstance(value, str) and value.lstrip()[:1] in ("[", "{", '"'):
        value = parsed(value, where)
    if isinstance(value, dict):
        value = turned(value) if isinstance(value.get("role", value.get("from")), list) else value
    if not isinstance(value, list):
        raise RowError(f"{where} is {kind_of(value)}, not a list of messages")
    return value


def messages_in(value: Any, where: str) -> Any:
    """The messages that a text holds as JSON, where it holds nothing else; any other value as it is.

    Raises RowError for messages as Python prints them: they are no text to train on.
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        items = decoded(value, where)
    except RowError:
        if is_repr(value) and any(f"'{key}'" in value[:200] for key in ("role", "from", "content", "value")):
            raise
        return value
    if isinstance(items, list) and items and all(is_message(item) for item in items):
        return items
    roles = ("user", "system") if where == "prompt" else ("assistant",)
    return [items] if _is_message_alone(items, roles) else value


def chat_in_text(text: str, known: bool) -> Any:
    """The messages, or the message, that a text holds as JSON in the form of any service; other texts as they
    are. `known`: the layout says that there is one."""
    held = as_json(text)
    if isinstance(held, list) and held and all(is_message(item) or has_items([item]) for item in held):
        return held
    return held if known and isinstance(held, dict) and (is_message(held) or "kwargs" in held) else text


def is_message(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.keys() & {"role", "from"})


def _is_message_alone(value: Any, roles: tuple[str, ...]) -> bool:
    """Whether an object is one message of these roles, and no answer in JSON that speaks of roles."""
    if not is_message(value) or not value.keys() <= OF_MESSAGES:
        return False
    role = value.get("role", value.get("from"))
    return isinstance(role, str) and role_name(role) in roles and bool(value.keys() & {"content", "value"})


def read_messages(value: Any, where: str) -> list[Turn]:
    return [
        _bare_message(message, where, number) or read_message(message, f"{where}[{number}]")
        for number, message in enumerate(message_list(value, where), 1)
    ]


def read_message(message: Any, where: str) -> Turn:
    """One message; null and empty fields are none.

    `extra` holds what only the template understands, and `"train": false` where the message is not trained,
    or its `weight` where that is not 1.
    """
    if isinstance(message, str) and message.lstrip().startswith("{"):
        message = decoded(message, where)
    if not isinstance(message, dict):
        raise RowError(f"{where} is {kind_of(message)}, not a message")
    message = {
        key: value
        for key, value in message.items()
        if value is not None and (type(value) is not float or not _is_left_open(key, value))
    }
    if all(message.get(key) is None for key in ("role", "from", "content", "value")):
        kind = message.get("type")
        if isinstance(kind, str):
            raise RowError(
                f"{where} is of type {kind!r}: only messages, reasoning and function calls are read"
            )
        raise RowError(f"{where} has neither role nor content")
    role_key, content_key = _key(message, "role", "from"), _key(message, "content", "value")
    role, content = message.get(role_key), message.get(content_key)
    if role is not None and not isinstance(role, str):
        raise RowError(f"{where}.{role_key} is {kind_of(role)}, not a string")
    extra = {
        key: value
        for key, value in message.items()
        if key not in (role_key, content_key) and value not in ([], {})
    }
    if shown := next((key for key in extra if key in MEDIA and holds_media(extra[key])), None):
        raise RowError(f"{where}.{shown} holds what is no text, and only text can be packed")
    if content is None:  # what OpenAI's models say when they refuse
        content = extra.pop("refusal", None)
    weight = take_directions(extra, where)
    take_calls(extra, where)
    take_reasoning(extra, where, content)
    role = role_name(role) if role else role
    if role in CALLS:
        if calls := read_calls(content, f"{where}.{content_key}"):
            extra["tool_calls"] = calls
        role, content = "assistant", ""
    elif role == "tool" and is_data(content):
        content, extra[HOLDS_DATA] = _json(content, f"{where}.{content_key}"), True
    if not weight:
        extra["train"] = False
    elif weight != 1:
        extra["weight"] = weight
    return checked(role, where), _content(content, where), extra


def _is_left_open(key: str, value: float) -> bool:
    """Whether a number is NaN, no value; one that may say how much the message is trained is an error."""
    return is_missing(value) and not speaks_of_training(key)


def _bare_message(message: Any, where: str, number: int) -> Turn | None:
    """A message of a role and a text alone, as most are: the same as the long way, sooner."""
    if type(message) is not dict or len(message) != 2:
        return None
    key = "content"
    role, text = message.get("role"), message.get(key)
    if type(role) is not str or type(text) is not str:
        key = "value"
        role, text = message.get("from"), message.get(key)
        if type(role) is not str or type(text) is not str:
            return None
    role = role_name(role)
    if role in CALLS:
        calls = read_calls(text, f"{where}[{number}].{key}")
        return "assistant", "", {"tool_calls": calls} if calls else {}
    return (role, text, {}) if is_text(role) and is_text(text) else None


def _key(message: dict[str, Any], first: str, second: str) -> str:
    return second if message.get(first) is None and second in message else first


def _json(value: Any, where: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        raise RowError(f"{where} holds a value that JSON cannot hold") from None


def _content(content: Any, where: str) -> str | None:
    """A string, or content parts of type text joined."""
    if content is None:
        return None
    if isinstance(content, dict) and content.get("type", "text") == "text" and content.keys() <= _ONE_PART:
        content = [{"type": "text", **content}]
    if not isinstance(content, list):
        return read_text(content, f"{where}.content")
    parts = []
    for part in content:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, dict) and (kind := part.get("type")) in ("text", "refusal"):
            parts.append(read_text(part.get(kind), f"{where}.content[].{kind}"))
        else:
            kind = part.get("type") if isinstance(part, dict) else kind_of(part)
            raise RowError(f"{where}: content part of type {kind!r}; only text can be packed")
    return checked("".join(parts), where)
