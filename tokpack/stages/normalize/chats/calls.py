"""Tools and their calls in the one form that templates read, from the forms in which data holds them.

    tools        [{"type": "function", "function": {...}}], one of them, any of it as JSON in a text
    functions    the older name; each becomes a tool of type function
    tool_calls   [{"id": ..., "type": "function", "function": {"name": ..., "arguments": {...}}}], also
                 without the wrapper `function`, or as JSON in a text
    function_call    the older name, of one call

Arguments stay an object or a text of JSON, as given: rendering knows which of them a template wants.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tokpack.stages.normalize.chats.plain_tools import plain_tools
from tokpack.stages.normalize.chats.python_calls import printed_calls, python_calls
from tokpack.stages.normalize.values import Dumped, RowError, decoded, is_nothing, is_repr, kind_of, turned

OLDER_TOOLS = "functions"
TOOLS = ("tools", OLDER_TOOLS)
"""Columns of tools."""
CALLS = ("tool_calls", "tool_call", "toolCalls", "function_calls", "function_call")
"""Keys of a message under which it may call tools; the first that does is read."""
_ARGUMENTS = (
    *("arguments", "parameters", "args", "input", "kwargs"),
    *("tool_args", "tool_input", "tool_arguments", "action_input"),
)
"""Keys under which a call may have its arguments; LangChain says `args`, Anthropic `input`."""
_NAMES = ("tool_name", "toolName", "function_name", "tool", "action")
"""Keys under which a call may have its name, where it has no `name`."""
_IDS = ("tool_call_id", "toolCallId", "call_id")
_CALL_TYPES = ("tool_call", "tool-call", "tool_use", "function_call")
_NAME_ALONE = re.compile(r"[\w.:/-]{1,64}")
_SHARED = 1024
"""Texts of tools that are kept decoded: many rows have equal ones."""
_LONGEST_SHARED = 1 << 14
"""Characters; longer texts are decoded each time."""


def read_tools(row: Mapping[str, Any]) -> dict[str, Any]:
    """`{"tools": [...]}` of the columns `tools` and `functions`, or nothing."""
    for column in TOOLS:
        value = row.get(column)
        if value is None:
            continue
        short = type(value) is str and len(value) <= _LONGEST_SHARED
        tools = _shared_tools(value, column) if short else _tools(value, column)
        if tools:
            return {"tools": tools}
    return {}


def tool_name(tool: dict[str, Any]) -> str:
    """Empty where it has none."""
    function = tool.get("function") or tool
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _tools(value: Any, column: str) -> list[Any]:
    given = plain_tools(value)
    for number, tool in enumerate(given if isinstance(given, list) else (), 1):
        if isinstance(tool, str) and _NAME_ALONE.fullmatch(tool) and not is_nothing(tool):
            raise RowError(
                f"{column}[{number}] is a string, not an object: {tool!r} is the name of a tool alone, and a "
                "template needs what the tool does and takes"
            )
    tools = _objects(given, column)
    return [_wrapped(tool) for tool in tools] if column == OLDER_TOOLS else tools


@lru_cache(_SHARED)
def _shared_tools(text: str, column: str) -> list[Any]:
    """Not to be changed: other rows have the same."""
    return Dumped(_tools(text, column))


def read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """The calls of a message, in the form of OpenAI."""
    lines = value if isinstance(value, list) and value else [value]
    found: list[Any] = []
    if all(isinstance(line, str) for line in lines):
        written = "\n".join(lines)
        is_code = written.rstrip().endswith((")", ")]"))
        found = python_calls(written) if is_code else [call for line in lines for call in printed_calls(line)]
    return [
        _call(call, f"{where}[{number}]") for number, call in enumerate(found or _objects(value, where), 1)
    ]


def take_calls(extra: dict[str, Any], where: str) -> None:
    """Put a message's calls, under whatever name, into their one form, in place."""
    given = [(name, extra.pop(name)) for name in CALLS if name in extra]
    calls = next(filter(None, (read_calls(value, f"{where}.{name}") for name, value in given)), [])
    if calls:
        extra["tool_calls"] = calls


def _objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects, or one, with those left out that say nothing."""
    value = decoded(value, where)
    if is_nothing(value):
        return []
    if isinstance(value, dict):
        value = turned(value) or [value]
    if not isinstance(value, list):
        raise RowError(f"{where} is {kind_of(value)}, not a list")
    found = []
    for number, given in enumerate(value, 1):
        if type(given) is dict and given:
            found.append(given)
            continue
        if is_nothing(given):
            continue
        item = _object_in(given)
        if is_repr(item):
            raise RowError(f"{where}[{number}] is what Python prints, not JSON: write it with json.dumps")
        if not isinstance(item, dict):
            raise RowError(f"{where}[{number}] is {kind_of(item)}, not an object")
        found.append(item)
    return found


def _object_in(value: Any) -> Any:
    """The object that a text of JSON holds; anything else as it is."""
    try:
        inner = decoded(value, "")
    except RowError:
        return value
    return inner if isinstance(inner, dict) else value


def _wrapped(tool: dict[str, Any]) -> dict[str, Any]:
    return tool if "function" in tool else {"type": "function", "function": tool}


def _call(call: dict[str, Any], where: str) -> dict[str, Any]:
    call = {key: value for key, value in call.items() if value is not None}
    if call.get("type") == "custom" or "custom" in call:
        raise RowError(f"{where} is of type 'custom': a free text, where templates write arguments in JSON")
    function = _object_in(call.pop("function", None))
    if isinstance(function, str):
        call["name"], function = function, None
    if function is None:
        call = _with_name(call, where)
        function = {key: call.pop(key) for key in ("name", *_ARGUMENTS) if key in call}
    if not isinstance(function, dict):
        raise RowError(f"{where}.function is {kind_of(function)}, not an object")
    function = {key: value for key, value in function.items() if value is not None}
    for name in _ARGUMENTS[1:]:
        if name in function:
            function.setdefault("arguments", function.pop(name))
    function["arguments"] = _arguments(function.get("arguments"))
    kind = call.get("type", "function")
    return call | {"type": "function" if kind in _CALL_TYPES else kind, "function": function}


def _with_name(call: dict[str, Any], where: str) -> dict[str, Any]:
    """A call with its name and number where OpenAI has them; `{"count": {"pond": 1}}` is one too."""
    if "name" not in call:
        key = next((key for key in _NAMES if isinstance(call.get(key), str)), "")
        alone = next(iter(call), "") if len(call) == 1 else ""
        if key:
            call = {("name" if held == key else held): value for held, value in call.items()}
        elif isinstance(call.get(alone), dict):
            call = {"name": alone, "arguments": call[alone]}
        else:
            raise RowError(f"{where} has no name")
    number = next((key for key in _IDS if "id" not in call and key in call), "")
    return {"id": call[number], **{k: v for k, v in call.items() if k != number}} if number else call


def _arguments(value: Any) -> Any:
    """An object, or JSON of it in a text: not in a text of a text."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    while isinstance(value, str):
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            break
        if inner is None:
            return {}
        if not isinstance(inner, str):
            break
        value = inner
    return value
