"""Ids in messages that the chat template never writes: two documents that differ in them alone are equal.

    {"tool_calls": [{"id": "call_aaa", ...}]}, {"tool_call_id": "call_aaa"}   ->   neither id

Where tool answers do not come in the order of their calls, ids still say which answers which: they become the
numbers of the calls, "0", "1" and on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import polars as pl

from tokpack.stages.render.chat_template import ChatTemplate, RenderError

_CALL, _ANSWERED = "id", "tool_call_id"
_PROBE: Final = "k7Qz3Xw9B"
"""Nine letters and digits: Mistral's templates take no other id."""


def writes_call_ids(template: ChatTemplate) -> bool:
    """Whether an id of a call or of its answer is in the text. Also when the template refuses every probe."""
    texts = list(_probes(template))
    return not texts or any(_PROBE in text for text in texts)


def _probes(template: ChatTemplate) -> Iterator[str]:
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
    for arguments in ({"x": 1}, '{"x": 1}'):
        call = {"id": _PROBE, "type": "function", "function": {"name": "f", "arguments": arguments}}
        chat: list[dict[str, object]] = [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "t", "tool_call_id": _PROBE, "name": "f"},
            {"role": "assistant", "content": "a"},
        ]
        for tools in ([tool], None):
            with suppress(RenderError):
                yield template.render(chat, tools)[0]


def without_ids(extra: pl.Series) -> pl.Series:
    """The column `extra` without them. A Python loop over the rows that hold any."""
    rows = extra.str.contains_any(['"id"', '_id"']).fill_null(False).arg_true()
    if not len(rows):
        return extra
    return extra.clone().scatter(rows, [_without_ids(text) for text in extra.gather(rows).to_list()])


def _without_ids(extra: str) -> str | None:
    document: dict[str, Any] = json.loads(extra)
    messages = [message for message in document.get("messages") or [] if isinstance(message, dict)]
    calls = [call for message in messages for call in _calls(message)]
    numbers = {str(call[_CALL]): str(number) for number, call in enumerate(calls) if _CALL in call}
    matter = not _answered_in_order(messages)
    for named, key in [*((call, _CALL) for call in calls), *((message, _ANSWERED) for message in messages)]:
        given = named.pop(key, None)
        if given is not None and matter:
            named[key] = numbers.get(str(given), given)
    for message in messages:
        message.pop("id", None)
    if not any(messages):
        document.pop("messages", None)
    return json.dumps(document, ensure_ascii=False) if any(document.values()) else None


def _calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _answered_in_order(messages: list[dict[str, Any]]) -> bool:
    """Whether each answer is to the call after the one answered before; calls may go without an answer."""
    open_calls: list[str] = []
    for message in messages:
        open_calls += [str(call.get(_CALL)) for call in _calls(message)]
        if _ANSWERED in message:
            answered = str(message[_ANSWERED])
            if answered not in open_calls:
                return False
            open_calls = open_calls[open_calls.index(answered) + 1 :]
    return True
