"""Ids of calls for templates that take those of nine letters or digits alone, as Mistral's do.

They are made of the ids that the data has, the same for a call and its answer; calls and answers without one
belong together in their order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from tokpack.stages.render.template.chat_template import Message

_SHORT = re.compile(r"[A-Za-z0-9]{9}")


def short_ids(messages: Sequence[Message], tool_roles: Sequence[str]) -> list[Message]:
    """The messages with such ids."""
    given: list[Message] = []
    waiting: list[str] = []
    for place, message in enumerate(messages):
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls:
            named = [_named(call, f"{place}.{number}") for number, call in enumerate(calls)]
            waiting = [call["id"] for call in named if isinstance(call, Mapping)]
            given.append({**message, "tool_calls": named})
        elif message.get("role") in tool_roles:
            said = message.get("tool_call_id")
            name = _short(said) if said else next(iter(waiting), _short(place))
            waiting = [other for other in waiting if other != name]
            given.append({**message, "tool_call_id": name})
        else:
            given.append(message)
    return given


def _named(call: Any, otherwise: str) -> Any:
    return {**call, "id": _short(call.get("id") or otherwise)} if isinstance(call, Mapping) else call


def _short(name: Any) -> str:
    text = str(name)
    return text if _SHORT.fullmatch(text) else sha256(text.encode()).hexdigest()[:9]
