"""Tools as services write them -> OpenAI's functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tokpack.stages.normalize.fields import as_json, is_filled

_DECLARED = ("functionDeclarations", "function_declarations")
_TYPES = {
    **{"str": "string", "int": "integer", "float": "number", "bool": "boolean"},
    **{"list": "array", "dict": "object", "tuple": "array", "set": "array"},
}
_DECODER = json.JSONDecoder()
_SCHEMAS = ("input_schema", "inputSchema")
"""Anthropic says the one, MCP and Vercel's AI SDK the other."""


def plain_tools(value: Any) -> Any:
    """Tools of Gemini, Bedrock, Anthropic, Cohere and Responses as OpenAI's functions; others as they are."""
    tools = _one_after_another(value) or as_json(value)
    listed = [tools[key] for key in ("tools", "functions") if isinstance(tools, Mapping) and key in tools]
    if listed and isinstance(listed[0], list):
        tools = listed[0]
    elif isinstance(tools, Mapping) and _is_by_name(tools):
        tools = [{"name": name, **as_json(tool)} for name, tool in tools.items()]
    elif isinstance(tools, Mapping) and _is_one(tools):
        tools = [tools]
    if not isinstance(tools, list):
        return value
    plain: list[Any] = []
    for tool in (as_json(tool) for tool in tools):
        held = tool if isinstance(tool, Mapping) else {}
        declared = next((held[name] for name in _DECLARED if is_filled(held.get(name))), None)
        if isinstance(declared, list):
            plain += [_declared(item) for item in declared]
        else:
            plain.append(_plain_tool(tool))
    return plain or value


def _one_after_another(value: Any) -> list[Any]:
    """Objects of JSON that follow each other in a text, as glaive's; none for anything else."""
    found: list[Any] = []
    at = 0
    while isinstance(value, str) and value[at : at + 1].strip() in ("{", "") and at < len(value):
        at += len(value[at:]) - len(value[at:].lstrip())
        try:
            tool, at = _DECODER.raw_decode(value, at)
        except (ValueError, RecursionError):
            return found if at >= len(value) and len(found) > 1 else []
        found.append(tool)
    return found if len(found) > 1 and at >= len(value) else []


def _is_one(tool: Mapping[str, Any]) -> bool:
    """Whether it is a tool, or a group of Gemini's, that stands in no list."""
    return not isinstance(tool.get("name", []), list) or any(
        isinstance(tool.get(key), Mapping | list) for key in ("function", "toolSpec", *_DECLARED)
    )


def _is_by_name(tools: Mapping[str, Any]) -> bool:
    """Whether the keys are the tools' names, as in Vercel's AI SDK: each value describes one."""
    described = (*_SCHEMAS, "parameters", "description")
    held = [as_json(tool) for tool in tools.values()]
    return bool(held) and all(
        isinstance(tool, Mapping) and "name" not in tool and any(key in tool for key in described)
        for tool in held
    )


def _declared(item: Any) -> Any:
    return _function(item, item.get("parameters")) if isinstance(item, Mapping) else item


def _plain_tool(tool: Any) -> Any:
    """A tool of Bedrock, Anthropic, MCP, Cohere or OpenAI's Responses as OpenAI's function."""
    if not isinstance(tool, Mapping):
        return tool
    tool = tool if "function" in tool else _under_usual_names(tool)
    if tool.get("function") is not None:
        function = _with_schema(tool["function"])
        return tool if function is tool["function"] else {**tool, "function": function}
    if tool.get("type") == "function" and tool.get("name") is not None:
        return _function(tool, tool.get("parameters"))
    if isinstance(spec := tool.get("toolSpec"), Mapping):
        schema = spec.get("inputSchema")
        return _function(spec, schema.get("json", schema) if isinstance(schema, Mapping) else schema)
    if isinstance(defined := tool.get("parameter_definitions"), Mapping):
        return _function(tool, schema_of_flat(defined, required=False))
    schema = next((tool[key] for key in _SCHEMAS if tool.get(key) is not None), None)
    return _with_schema(tool) if schema is None else _function(tool, schema)


_CALLED = {
    "name": ("tool_name", "function_name", "api_name"),
    "description": ("tool_description", "function_description", "api_description"),
    "parameters": ("arguments", "args", "params", "inputs", "args_schema"),
}
"""Keys of a function -> as some call them."""
_LISTED = ("required_parameters", "optional_parameters")
"""Of ToolBench: the parameters in two lists."""


def _under_usual_names(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """A function whose name or parameters are called otherwise; any other as it is."""
    names = {}
    for usual, others in _CALLED.items():
        found = next((key for key in others if is_filled(function.get(key))), "")
        fits = usual != "parameters" or _are_parameters(as_json(function.get(found)))
        if found and fits and function.get(usual) is None:
            names[found] = usual
    made = {names.get(key, key): value for key, value in function.items() if key not in names.values()}
    lists = [made.get(key) for key in _LISTED]
    if made.get("parameters") is None and all(
        isinstance(one, list) and _are_parameters(one) for one in lists
    ):
        listed = [{**item, "required": key == _LISTED[0]} for key in _LISTED for item in made[key]]
        made = {key: value for key, value in made.items() if key not in _LISTED}
        made["parameters"] = listed or {"type": "object", "properties": {}}
    return made if made.keys() != function.keys() and isinstance(made.get("name"), str) else function


def _are_parameters(value: Any) -> bool:
    """Whether it is a JSON schema of an object, or parameters one by one or in a list."""
    if isinstance(value, list):
        return all(isinstance(item, Mapping) and "name" in item for item in value)
    told = isinstance(value, Mapping) and all(isinstance(item, Mapping) for item in value.values())
    return told or (isinstance(value, Mapping) and "properties" in value)


def _with_schema(function: Any) -> Any:
    """The function with its parameters as a JSON schema; one that has such stays as it is."""
    if not isinstance(function, Mapping):
        return function
    function = _under_usual_names(function)
    given = function.get("parameters")
    schema = _schema(given)
    return function if schema is given else {**function, "parameters": schema}


def _schema(parameters: Any) -> Any:
    """A JSON schema of parameters, also as JSON in a text, one by one or in a list; others as they are."""
    held = as_json(parameters)
    if isinstance(held, list) and held and all(isinstance(item, Mapping) and "name" in item for item in held):
        held = {item["name"]: {key: value for key, value in item.items() if key != "name"} for item in held}
    return schema_of_flat(held) if isinstance(held, Mapping) else parameters


def schema_of_flat(parameters: Any, required: bool = True) -> Any:
    """`{"pond": {"type": "str, optional"}}`, as xLAM has it, or with `"required": true` in each, as Cohere's
    first API, as a JSON schema; a schema as it is. `required`: whether those are that do not say."""
    flat = isinstance(parameters, Mapping) and "properties" not in parameters
    if not flat or not parameters or not all(isinstance(value, Mapping) for value in parameters.values()):
        return parameters
    says = any(isinstance(value.get("required"), bool) for value in parameters.values())
    needed = [name for name, value in parameters.items() if _is_required(value, required and not says)]
    properties = {
        name: {
            **{
                key: held for key, held in value.items() if not (key == "required" and isinstance(held, bool))
            },
            **_typed(value.get("type")),
        }
        for name, value in parameters.items()
    }
    return {
        "type": "object",
        "properties": properties,
        **({"required": needed} if needed else {}),
    }


def _is_required(parameter: Mapping[str, Any], unless_said: bool) -> bool:
    optional = "default" in parameter or "optional" in str(parameter.get("type")).casefold()
    return parameter.get("required") is True or (unless_said and not optional)


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
        "parameters": _schema(schema),
    }
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}
