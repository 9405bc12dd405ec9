"""Texts that a template makes of objects it looks into: the arguments of a call, the tools of a chat.

Each is cut out of a small chat. What stands before it and behind it there is learned from two samples, and
must stand there for every other.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from functools import cached_property
from typing import Any

from tokpack.stages.render.compiled.shape_keys import ChatBuilder, Key, Values, marker
from tokpack.stages.render.compiled.symbol_values import number
from tokpack.stages.render.compiled.symbolic_template import SymbolicTemplate
from tokpack.stages.render.compiled.symbols import Observed, Opaque, Part, Slot
from tokpack.stages.render.spans.prefix_turns import common_prefix
from tokpack.stages.render.template.chat_template import ChatTemplate, RenderError
from tokpack.stages.render.template.template_forms import SharedTools

_MOST = 4096
"""Texts kept of each kind."""


def _tool(name: str, about: str, parameter: str, kind: str, **other: Any) -> dict[str, Any]:
    properties = {parameter: {"type": kind, "description": f"{about} {parameter}"}}
    parameters = {"type": "object", "properties": properties, "required": [parameter], **other}
    return {
        "type": "function",
        "function": {"name": name, "description": about, "parameters": parameters},
    }


class Fragments:
    """Fragments of one template. Safe to share between threads."""

    sample_tools = [_tool("weather_of", "Looks the weather up", "town", "string")]  # noqa: RUF012
    _other_tools = (
        [_tool("Add", "adds two numbers.", "first", "integer")],
        [_tool("Add", "adds two numbers.", "first", "integer", required=[])],
        [_tool("Add", "adds two numbers.", "first", "integer", properties={}, required=[])],
    )
    """They end in other ways, so that nothing of a tool is taken for what stands behind all tools."""

    def __init__(self, template: ChatTemplate, symbolic: SymbolicTemplate) -> None:
        self._template, self._symbolic = template, symbolic
        self._tools: dict[str, str] = {}
        self._arguments: dict[Key, tuple[tuple[Part, ...], Observed]] = {}
        self._lock = threading.RLock()

    def learned(self) -> dict[str, Any]:
        """What others of the same template can `take`; no text of any tool."""
        with self._lock:
            names = ("_arguments", "_tool_edges", "_call_edges")
            return {name: copy(self.__dict__[name]) for name in names if name in self.__dict__}

    def take(self, learned: Mapping[str, Any]) -> None:
        self.__dict__.update(learned)

    def of_tools(self, tools: list[Any]) -> str:
        """Raises RenderError when the template refuses them, Opaque when they are not written alike."""
        if not isinstance(tools, SharedTools):
            return self._tools_text(tools)
        if self not in tools.written:
            tools.written[self] = self._tools_text(tools)
        text: str = tools.written[self]
        return text

    def _tools_text(self, tools: list[Any]) -> str:
        key = json.dumps(tools)
        with self._lock:
            if key not in self._tools:
                text = self._with_tools(tools)
                _make_room(self._tools)
                self._tools[key] = _between(text, *self._tool_edges)
            return self._tools[key]

    def _with_tools(self, tools: list[Any]) -> str:
        chat = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
        return self._template.render(chat, tools)[0]

    @cached_property
    def _tool_edges(self) -> tuple[str, str]:
        one = self._with_tools(self.sample_tools)
        before = behind = len(one)
        for tools in self._other_tools:
            with suppress(RenderError):  # it may refuse a tool without parameters
                other = self._with_tools(tools)
                before = min(before, common_prefix(one, other))
                behind = min(behind, common_prefix(one[before:][::-1], other[before:][::-1]))
        return one[:before], one[len(one) - behind :]

    def of_arguments(self, arguments: dict[str, Any]) -> str:
        """Raises as `of_tools` does."""
        values = Values()
        key = values.key([arguments])
        with self._lock:
            if key not in self._arguments:
                _make_room(self._arguments)
                self._arguments[key] = self._arguments_of(key)
            parts, seen = self._arguments[key]
        held = ((values.found[i], constants) for i, constants in seen.constants.items())
        if any(constant in text for text, constants in held for constant in constants):
            raise Opaque("arguments hold what the template looks for")
        return "".join(p if isinstance(p, str) else p.fill(values.found[p.index]) for p in parts)

    def _arguments_of(self, key: Key) -> tuple[tuple[Part, ...], Observed]:
        seen = Observed()
        (arguments,) = ChatBuilder(seen).messages(key)
        before, behind = self._call_edges
        first, *between = self._with_call(arguments)
        last = between.pop() if between else first
        if not (isinstance(first, str) and first.startswith(before)):
            raise Opaque("arguments are written in several ways")
        if not (isinstance(last, str) and last.endswith(behind)):
            raise Opaque("arguments are written in several ways")
        if last is first:
            return (_between(first, before, behind),), seen
        return (first[len(before) :], *between, last[: len(last) - len(behind)]), seen

    def _with_call(self, arguments: dict[str, Any]) -> tuple[Part, ...]:
        call = {"type": "function", "id": "call00000", "function": {"name": "f", "arguments": arguments}}
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        return self._symbolic.run([{"role": "user", "content": "u"}, answer], None)

    @cached_property
    def _call_edges(self) -> tuple[str, str]:
        sample = {marker(0): number(0, Observed(), real=False)}
        parts = self.cut_object(list(self._with_call(sample)), 0)
        if len(parts) != 3:
            raise Opaque("the arguments of a call are written more than once")
        return str(parts[0]), str(parts[2])

    def cut_object(self, parts: list[Part], index: int) -> list[Part]:
        """One slot for the object `index`, which was written as its marker and the number behind it."""
        slots = [i for i, part in enumerate(parts) if isinstance(part, Slot) and part.index == index]
        if not slots:
            return parts
        place = slots[0]
        before = parts[place - 1] if place else ""
        if len(slots) > 1 or not isinstance(before, str) or before.count(marker(index)) != 1:
            raise Opaque("an object of the data is not written as one piece")
        head = before[: before.index(marker(index))]
        return [*parts[: place - 1], head, Slot(index), *parts[place + 1 :]]

    def cut_text(self, parts: list[Part], index: int, text: str) -> list[Part]:
        """One slot where the literals hold the text."""
        holders = [i for i, part in enumerate(parts) if isinstance(part, str) and text in part]
        if len(holders) != 1 or not text:
            raise Opaque("the tools are not written as one piece")
        head, *tails = str(parts[holders[0]]).split(text)
        if len(tails) != 1:
            raise Opaque("the tools are written more than once")
        return [*parts[: holders[0]], head, Slot(index), tails[0], *parts[holders[0] + 1 :]]


def _between(text: str, before: str, behind: str) -> str:
    if len(text) < len(before) + len(behind) or not (text.startswith(before) and text.endswith(behind)):
        raise Opaque("tools are written in several ways")
    return text[len(before) : len(text) - len(behind)]


def _make_room(kept: dict[Any, Any]) -> None:
    if len(kept) >= _MOST:
        kept.clear()
