"""Messages of gpt-oss, one for each channel -> messages with reasoning, calls and an answer.

    {"role": "assistant", "channel": "analysis", "content": "A pond."}     reasoning
    {"role": "assistant", "channel": "commentary", "recipient": "functions.count", "content": "{}"}     a call
    {"role": "tool", "name": "functions.count", "recipient": "assistant", "content": "3"}     its answer
    {"role": "assistant", "channel": "final", "content": "Three."}     the answer

What goes to a tool of gpt-oss itself (`python`, `browser.search`) is no call that templates write: it becomes
a part that is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpack.stages.normalize.chats.reasoning import text_of
from tokpack.stages.normalize.chats.responses import joined
from tokpack.stages.normalize.chats.roles import role_name
from tokpack.stages.normalize.chats.training import speaks_of_training

CHANNELS = ("analysis", "commentary", "final")
FIELDS = ("channel", "recipient")
"""Fields of messages that say what they are."""
_FUNCTIONS = "functions."
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")
_TAKEN_APART = {*FIELDS, *_ROLE_KEYS, *_CONTENT_KEYS, "content_type", "name", "end_turn"}


def has_channels(messages: list[Any]) -> bool:
    return any(
        isinstance(message, Mapping)
        and (message.get("channel") in CHANNELS or str(message.get("recipient")).startswith(_FUNCTIONS))
        for message in messages
    )


def channels_as_messages(messages: list[Any]) -> list[Any]:
    """Those of one answer joined; a role of `functions.count` is the tool's. What is trained in part
    becomes one that is refused."""
    return joined(messages, _of_answer, _other, _differ)


def _differ(answer: Mapping[str, Any], added: Mapping[str, Any]) -> bool:
    one, other = ({k: v for k, v in held.items() if speaks_of_training(k)} for held in (answer, added))
    return one != other


def _of_answer(message: Any) -> dict[str, Any] | None:
    """What a message of the assistant adds to its answer; None for those of others."""
    role = _first(message, _ROLE_KEYS) if isinstance(message, Mapping) else None
    if not isinstance(role, str) or role_name(role) != "assistant":
        return None
    content, recipient = _first(message, _CONTENT_KEYS), message.get("recipient")
    more = {key: value for key, value in message.items() if key not in _TAKEN_APART}
    if isinstance(recipient, str) and recipient.startswith(_FUNCTIONS):
        function = {"name": recipient.removeprefix(_FUNCTIONS), "arguments": text_of(content)}
        return {**more, "tool_calls": [{"type": "function", "function": function}]}
    if recipient not in (None, "", "all", "user", "assistant"):
        return {**more, "content": [{"type": f"call of {recipient}"}]}
    if message.get("channel") == "analysis":
        return {**more, "reasoning_content": text_of(content) or ""}
    return {**more, "content": content}


def _other(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    plain = {key: value for key, value in message.items() if key not in (*FIELDS, "content_type")}
    role = _first(message, _ROLE_KEYS)
    if isinstance(role, str) and role.startswith(_FUNCTIONS):
        plain = {"role": "tool", "name": role, "content": _first(message, _CONTENT_KEYS)}
    if isinstance(name := plain.get("name"), str):
        plain["name"] = name.removeprefix(_FUNCTIONS)
    return plain


def _first(message: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((message[key] for key in keys if message.get(key) is not None), None)
