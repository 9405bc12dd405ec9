"""Spans of a trace: the messages, the answer, the system message and the tools of a model's call, as
OpenTelemetry, OpenInference (Phoenix) and OpenLLMetry (Traceloop) put them into attributes.

    {"gen_ai.input.messages": [...], "gen_ai.output.messages": [...], "gen_ai.system_instructions": [...]}
    {"attributes": {"llm.input_messages": [{"message.role": "user", "message.content": "Hi"}], ...}}
    {"attributes": {"llm.input_messages.0.message.role": "user", ...}}
    {"attributes": {"gen_ai.prompt.0.role": "user", "gen_ai.completion.0.content": "Hello.", ...}}
    {"attributes": [{"key": "gen_ai.input.messages", "value": {"stringValue": "[...]"}}]}

Attributes stand in an object, a list of keys and values, or a column each; dots in a key are levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokpack.stages.normalize.fields import Row, as_json, is_filled, value_at
from tokpack.stages.normalize.layouts.commands import ROWS
from tokpack.stages.normalize.layouts.layouts import Layout, Rows

ATTRIBUTES = "attributes"
_BEGIN = ("gen_ai.", "llm.", f"{ATTRIBUTES}.")
_INPUT = ("gen_ai.input.messages", "llm.input_messages", "gen_ai.prompt")
_OUTPUT = ("gen_ai.output.messages", "llm.output_messages", "gen_ai.completion")
_SYSTEM = ("gen_ai.system_instructions",)
_TOOLS = ("gen_ai.tool.definitions", "llm.tools", "llm.request.functions")
_FEW = 20
"""One span of so many may have no messages: it is set aside."""


def find_spans(rows: Rows) -> Layout | None:
    """The layout of spans that hold calls of a model."""
    if not any(_is_attribute(name) for row in rows for name in row):
        return None
    called = [row for row in rows if "prompt" in (made := _of_span(row)) and "completion" in made]
    if not called:
        return None
    if len(rows) - len(called) > len(rows) // _FEW:
        return Layout(
            name="spans of a trace",
            reason=f"{len(rows) - len(called)} of the first {len(rows)} spans hold no messages",
            hint=f"{ROWS.format(_CALLS)} leaves the calls of models",
        )
    return Layout(
        name="spans of a trace",
        format="prompt_completion",
        adapt=_of_span,
        reads=tuple(dict.fromkeys(name for row in called for name in row if _is_read(name, row))),
        fields={"prompt": "prompt", "completion": "completion", "system": "system", "tools": "tools"},
        note="of each span the messages and the first answer",
    )


_CALLS = 'select(tostring | test("input.messages|gen_ai.prompt"))'
OF_FILE = Layout(
    name="a file of traces",
    needs=("resourceSpans.0.scopeSpans.0.spans",),
    reason="resourceSpans are the spans of services, many in each",
    hint=ROWS.format(f".resourceSpans[].scopeSpans[].spans[] | {_CALLS}")
    + " writes the calls of models, one a row",
)


def _is_attribute(name: str) -> bool:
    return name == ATTRIBUTES or name.startswith(_BEGIN)


def _is_read(name: str, row: Row) -> bool:
    """Whether a column is one of attributes, or of one that is read."""
    whole = name.removeprefix(f"{ATTRIBUTES}.")
    return name == ATTRIBUTES or whole.startswith((*_INPUT, *_OUTPUT, *_SYSTEM, *_TOOLS))


def _of_span(row: Row) -> Row:
    """The row with what a model was asked and answered, where it holds that."""
    held = _nested(dict(_attributes(row)))
    made: dict[str, Any] = {}
    for field, names in (("prompt", _INPUT), ("completion", _OUTPUT), ("system", _SYSTEM), ("tools", _TOOLS)):
        values = (_nested(as_json(value_at(held, name))) for name in names)
        value = next((value for value in values if is_filled(value) and isinstance(value, list)), None)
        if value is not None:
            items = [item for item in map(as_json, value) if isinstance(item, Mapping)]
            items = [_tool(item) if field == "tools" else _message(item) for item in items]
            items = [item for item in items if any(map(is_filled, item.values()))]
            made[field] = items[:1] if field == "completion" else items
    rest = {
        name: value for name, value in row.items() if name not in ("prompt", "completion", "system", "tools")
    }
    return {**rest, **made}


def _attributes(row: Row) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if name == ATTRIBUTES:
            yield from _items(as_json(value))
        elif name.startswith(_BEGIN):
            yield name.removeprefix(f"{ATTRIBUTES}."), value


def _items(held: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(held, Mapping):
        yield from held.items()
    for pair in held if isinstance(held, list) else ():
        if isinstance(pair, Mapping) and isinstance(pair.get("key"), str):
            value = pair.get("value")
            yield pair["key"], next(iter(value.values()), None) if isinstance(value, Mapping) else value


def _nested(value: Any) -> Any:
    """An object whose keys have dots as objects in objects, those of numbers as lists.

    {"a.0.b": 1}  ->  {"a": [{"b": 1}]}
    """
    if isinstance(value, list):
        return [_nested(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    made: dict[str, Any] = {}
    for name, held in ((name, _nested(held)) for name, held in value.items() if held is not None):
        *above, last = str(name).split(".")
        at = made
        for part in above:
            inner = at.get(part)
            if not isinstance(inner, dict):
                at[part] = inner = {}
            at = inner
        at[last] = {**at[last], **held} if isinstance(at.get(last), dict) and isinstance(held, dict) else held
    return _listed(made)


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    value = {key: _listed(held) for key, held in value.items()}
    if value and all(key.isdigit() for key in value):
        return [value[key] for key in sorted(value, key=int)]
    return value


def _message(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """`{"message": {"role": ..., "contents": [...], "tool_calls": [...]}}` without its wrappers."""
    held = item["message"] if isinstance(item.get("message"), Mapping) else item
    message = {key: value for key, value in held.items() if key not in ("contents", "finish_reason")}
    if not is_filled(message.get("content")) and isinstance(parts := held.get("contents"), list):
        message["content"] = [_inside(part, "message_content") for part in parts]
    if isinstance(calls := held.get("tool_calls"), list):
        message["tool_calls"] = [_inside(call, "tool_call") for call in calls]
    if is_filled(message.get("tool_calls")) and "content" not in message:
        message["content"] = ""
    return message


def _tool(item: Mapping[str, Any]) -> Mapping[str, Any]:
    schema = as_json(value_at(item, "tool.json_schema"))
    return schema if isinstance(schema, Mapping) else item


def _inside(item: Any, key: str) -> Any:
    return item[key] if isinstance(item, Mapping) and isinstance(item.get(key), Mapping) else item
