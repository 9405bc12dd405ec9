"""The shape of a chat: its messages with every text, number and object taken out.

Chats of one shape are written by a template in one way, so a shape is compiled once. What is taken out, the
values, goes in its order to the slots that the shape has for it.

    [{"role": "user", "content": "Hi"}]  ->  [{"role": "user", "content": <text 0>}], values ["Hi"]

Roles and types, blank texts, zeros and empty lists stay in the shape: templates ask for them. So does which
of a chat's ids are equal, and how long they are.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from tokpack.stages.render.compiled.symbol_values import OpaqueObject, number
from tokpack.stages.render.compiled.symbols import Observed, Slot, Symbol, joined
from tokpack.stages.render.template.chat_template import Message

Key = tuple[Hashable, ...]

_TEXT, _OBJECT, _WHOLE, _REAL = ("text",), ("object",), ("whole",), ("real",)
_KEPT = frozenset({"role", "type"})
_IDS = frozenset({"id", "tool_call_id"})
ARGUMENTS = "arguments"
WEIGHT = "weight"
"""Of a message in the loss: it stays in the shape as well."""


def chat_key(roles: Sequence[str]) -> Key:
    """Shape of a chat whose messages hold a role and a text that is not blank, in this order."""
    return tuple([("bare", role) for role in roles])


@dataclass(slots=True)
class Values:
    """Takes the values out of a chat."""

    cut: re.Pattern[str] | None = None
    """Texts are cut at what this matches, which stays in the shape."""
    found: list[Any] = field(default_factory=list)
    _ids: dict[str, int] = field(default_factory=dict)

    def key(self, messages: Sequence[Message]) -> Key:
        """Raises RecursionError for data nested too deep."""
        return tuple([self.message_key(message) for message in messages])

    def message_key(self, message: Message) -> Key:
        return self._bare_key(message) or self._key(message, "")

    def _bare_key(self, message: Message) -> Key | None:
        """The key of a message of a role and a text, as most are, sooner."""
        role, text = message.get("role"), message.get("content")
        if len(message) != 2 or type(role) is not str or type(text) is not str or self.cut is not None:
            return None
        if not text or text.isspace() or next(iter(message)) != "role":
            return None
        self.found.append(text)
        return ("bare", role)

    def _key(self, value: Any, name: str) -> Key:
        kind = type(value)
        if kind is str:
            return self._text_key(value, name)
        if kind is dict:
            if name == ARGUMENTS and value:
                self.found.append(value)
                return _OBJECT
            return ("dict", tuple([(key, self._key(inner, key)) for key, inner in value.items()]))
        if kind is list:
            return ("list", tuple([self._key(inner, name) for inner in value]))
        if kind in (int, float) and value and isfinite(value) and name != WEIGHT:
            self.found.append(value)
            return _WHOLE if kind is int else _REAL
        return ("=", kind.__name__, repr(value) if kind is float else value)

    def _text_key(self, value: str, name: str) -> Key:
        if name in _KEPT or not value.strip() or (name == ARGUMENTS and value.strip() == "{}"):
            return ("=", "str", value)
        if name in _IDS:
            if value not in self._ids:
                self._ids[value] = len(self.found)
                self.found.append(value)
            return ("id", self._ids[value], len(value))
        if self.cut is not None and self.cut.search(value):
            pieces = self.cut.split(value)
            return (
                "cut",
                tuple([piece if i % 2 else self._text_key(piece, "") for i, piece in enumerate(pieces)]),
            )
        self.found.append(value)
        return _TEXT


@dataclass(slots=True)
class ChatBuilder:
    """Builds chats of a shape: of symbols, or of a probe's values."""

    seen: Observed | None = None
    """None for the probe."""
    open_objects: bool = False
    """Objects are given as such, with one number in each, to be cut out of what is written."""
    values: list[Any] = field(default_factory=list)
    """The probe's values."""
    objects: list[int] = field(default_factory=list)
    """Which of them are objects."""

    def messages(self, key: Key) -> list[dict[str, Any]]:
        return [self._value(inner) for inner in key]

    def _value(self, key: Any) -> Any:
        kind = key[0]
        if kind == "=":
            return float(key[2]) if key[1] == "float" else key[2]
        if kind == "bare":
            return {"role": key[1], "content": self._value(_TEXT)}
        if kind == "dict":
            return {name: self._value(inner) for name, inner in key[1]}
        if kind == "list":
            return [self._value(inner) for inner in key[1]]
        if kind == "cut":
            return joined(piece if isinstance(piece, str) else self._value(piece) for piece in key[1])
        return self._id(key[1], key[2]) if kind == "id" else self._new(kind)

    def _id(self, index: int, size: int) -> str:
        if index == len(self.values):
            self.values.append(None)
        text = (f"{index}id" + "x" * size)[:size]
        self.values[index] = text
        return text if self.seen is None else Symbol.of([Slot(index)], self.seen, size)

    def _new(self, kind: str) -> Any:
        index = len(self.values)
        self.values.append(None)
        if kind == "text":
            self.values[index] = f"text{index}."
            return self.values[index] if self.seen is None else Symbol.of([Slot(index)], self.seen)
        if kind in ("whole", "real"):
            self.values[index] = index + 1 if kind == "whole" else index + 1.5
            return self.values[index] if self.seen is None else number(index, self.seen, kind == "real")
        return self._object(index)

    def _object(self, index: int) -> Any:
        self.objects.append(index)
        self.values[index] = {marker(index): index + 1}
        if self.seen is None:
            return self.values[index]
        if self.open_objects:
            return {marker(index): number(index, self.seen, real=False)}
        return OpaqueObject.of(index, self.seen)

    def tool(self) -> Any:
        """One more object, behind the messages, that is not looked into."""
        index = len(self.values)
        self.values.append({marker(index): index + 1})
        return self.values[index] if self.seen is None else OpaqueObject.of(index, self.seen)


def marker(index: int) -> str:
    """The one key of an object that stands for others."""
    return f"argument{index}"
