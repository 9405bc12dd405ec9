"""Tools as services write them -> OpenAI's functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tokpack.stages.normalize.fields import as_json, is_filled

_DECLARED = ("functionDeclarations", "function_declarations")
_TYPES = {
    **{"str": "string", "int": "integer", "float": "number", "bool": "boolean"},
    **{"list": "array", "dict": "object", "tuple": "array", "set": "array"},
}
_SCHEMAS = ("input_schema", "inputSchema")
"""Anthropic says the one, MCP and Vercel's AI SDK the other."""


def plain_tools(value: Any) -> Any:
    """Tools of Gemini, Bedrock, Anthropic, Cohere and Responses as OpenAI's functions; others as they are."""
    tools = as_json(value)
    if isinstance(tools, Mapping) and isinstance(tools.get("tools"), list):
        tools = tools["tools"]
    if not isinstance(tools, list):
        return value
    listed: list[Any] = []
    for tool in (as_json(tool) for tool in tools):
        held = tool if isinstance(tool, Mapping) else {}
        declared = next((held[name] for name in _DECLARED if is_filled(held.get(name))), None)
        if isinstance(declared, list):
            listed += [_declared(item) for item in declared]
        else:
            listed.append(_plain_tool(tool))
    return listed or value


def _declared(item: Any) -> Any:
    return _function(item, item.get("parameters")) if isinstance(item, Mapping) else item


def _plain_tool(tool: Any) -> Any:
    """A tool of Bedrock, Anthropic, MCP, Cohere or OpenAI's Responses as OpenAI's function."""
    if not isinstance(tool, Mapping) or tool.get("function") is not None:
        return tool
    if tool.get("type") == "function" and tool.get("name") is not None:
        return _function(tool, tool.get("parameters"))
    if isinstance(spec := tool.get("toolSpec"), Mapping):
        schema = spec.get("inputSchema")
        return _function(spec, schema.get("json", schema) if isinstance(schema, Mapping) else schema)
    if isinstance(defined := tool.get("parameter_definitions"), Mapping):
        return _function(tool, _schema(defined))
    schema = next((tool[key] for key in _SCHEMAS if tool.get(key) is not None), None)
    return tool if schema is None else _function(tool, schema)


def _schema(defined: Mapping[str, Any]) -> dict[str, Any]:
    """`{"pond": {"type": "int", "required": true}}`, as Cohere's first API has it, as a JSON schema."""
    given = {name: value for name, value in defined.items() if isinstance(value, Mapping)}
    properties = {
        name: {
            key: _TYPES.get(held, held) if key == "type" else held
            for key, held in value.items()
            if key != "required"
        }
        for name, value in given.items()
    }
    required = [name for name, value in given.items() if value.get("required")]
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
    }


def schema_of_flat(parameters: Any) -> Any:
    """`{"pond": {"type": "str, optional"}}`, as xLAM has it, as a JSON schema; a schema as it is."""
    flat = isinstance(parameters, Mapping) and "properties" not in parameters
    if not flat or not parameters or not all(isinstance(value, Mapping) for value in parameters.values()):
        return parameters
    properties = {name: {**value, **_typed(value.get("type"))} for name, value in parameters.items()}
    required = [
        name
        for name, value in parameters.items()
        if "default" not in value and "optional" not in str(value.get("type")).casefold()
    ]
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
    }


_PYTHON = re.compile(r"(?:optional\[)?(\w+)(?:\[(\w+).*\])?\]?(?:, *optional)?\Z", re.IGNORECASE)


def _typed(said: Any) -> dict[str, Any]:
    """`List[int], optional` -> array of integers; what is no type of Python's stays as it is."""
    found = _PYTHON.match(said.strip()) if isinstance(said, str) else None
    kind = _TYPES.get(found[1].casefold()) if found else None
    if found is None or kind is None:
        return {}
    items = _TYPES.get((found[2] or "").casefold()) if kind == "array" else None
    return {"type": kind, **({"items": {"type": items}} if items else {})}


def _function(tool: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    function = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": as_json(schema),
    }
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}
