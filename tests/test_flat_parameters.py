"""Parameters of tools without a schema around them become one, wherever tools stand."""

from __future__ import annotations

import json

import families
import pytest
from encode_helpers import frame, small_tokenizer
from rows_read import CONTAINERS, documents

from tokpack.stages.normalize.chats.plain_tools import plain_tools
from tokpack.stages.render.render import Renderer, RenderSettings, render

FLAT = {
    "pond": {"description": "Which one.", "type": "str"},
    "days": {"description": "How long.", "type": "int, optional", "default": 1},
}
SCHEMA = {
    "type": "object",
    "properties": {
        "pond": {"description": "Which one.", "type": "string"},
        "days": {"description": "How long.", "type": "integer", "default": 1},
    },
    "required": ["pond"],
}
NAMED = {"name": "count", "description": "Counts."}
CHAT = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Three."}]
ROWS = {
    "messages": {"messages": CHAT},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Three."}]
    },
    "alpaca": {"instruction": "How many?", "output": "Three."},
    "prompt_completion": {"prompt": "How many?", "completion": "Three."},
    "preference": {"prompt": "How many?", "chosen": "Three.", "rejected": "None."},
}


@pytest.mark.parametrize("as_text", [False, True], ids=["objects", "text"])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ROWS)
def test_flat_parameters_are_read_as_a_schema_in_every_format(name, container, as_text, tmp_path):
    tools = [{"type": "function", "function": {**NAMED, "parameters": FLAT}}]
    row = {**ROWS[name], "tools": json.dumps(tools) if as_text else tools}
    for _, _, extra, _ in documents(tmp_path, [row], container)[0]:
        [tool] = json.loads(extra)["tools"]
        assert tool == {"type": "function", "function": {**NAMED, "parameters": SCHEMA}}


@pytest.mark.parametrize(
    "given",
    [
        FLAT,
        json.dumps(FLAT),
        [{"name": name, **told} for name, told in FLAT.items()],
        {
            "pond": {"description": "Which one.", "type": "string", "required": True},
            "days": {"description": "How long.", "type": "integer", "default": 1, "required": False},
        },
        json.dumps(SCHEMA),
        SCHEMA,
    ],
    ids=["flat", "flat as text", "a list", "required in each", "a schema as text", "a schema"],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_parameters_in_any_dialect(given, wrapped):
    function, wanted = {**NAMED, "parameters": given}, {**NAMED, "parameters": SCHEMA}
    tool = {"type": "function", "function": function} if wrapped else function
    [plain] = plain_tools([tool])
    assert plain == ({"type": "function", "function": wanted} if wrapped else wanted)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"$ref": "#/x"},
        None,
        [],
        "no JSON",
        ["pond"],
    ],
)
def test_what_is_a_schema_or_nothing_stays(given):
    tool = {"type": "function", "function": {**NAMED, "parameters": given}}
    assert plain_tools([tool]) == [tool]


@pytest.mark.parametrize("key", ["parameters", "inputSchema", "input_schema"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_tools_by_their_names_are_a_list_of_them(key, container, tmp_path):
    tools = {"count": {"description": "Counts.", key: SCHEMA}, "stop": {"description": "Ends."}}
    row = {**ROWS["messages"], "tools": tools}
    [(_, _, extra, _)] = documents(tmp_path, [row], container)[0]
    told = [tool.get("function", tool) for tool in json.loads(extra)["tools"]]
    assert told == [{**NAMED, "parameters": SCHEMA}, {"name": "stop", "description": "Ends."}]


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "f", "parameters": {}},
        {"type": "function", "function": {"name": "f", "parameters": {}}},
        {"toolSpec": {"name": "f", "inputSchema": {"json": {}}}},
        {"functionDeclarations": [{"name": "f", "parameters": {}}]},
    ],
)
def test_one_tool_that_stands_in_no_list_is_one(tool):
    [read] = plain_tools(tool)
    assert read.get("function", read) == {"name": "f", "parameters": {}}


def test_gemma_4_writes_them(tmp_path):
    row = {"messages": CHAT, "tools": [{**NAMED, "parameters": FLAT}]}
    [(roles, contents, extra, _)], _, _ = documents(tmp_path, [row])
    tokenizer = small_tokenizer(tmp_path / "tokenizer", chat_template=families.stock("gemma4"))
    rows = frame([{"roles": roles, "contents": contents, "extra": extra}])
    [text] = render(rows, Renderer(tokenizer, RenderSettings())).text.to_pylist()
    assert "Which one." in text


def test_tools_of_a_service_are_read_from_a_text_too(tmp_path):
    tool = {**NAMED, "input_schema": SCHEMA}
    row = {"messages": CHAT, "tools": json.dumps([tool])}
    [(_, _, extra, _)], _, _ = documents(tmp_path, [row])
    assert json.loads(extra)["tools"] == [{"type": "function", "function": {**NAMED, "parameters": SCHEMA}}]


OTHER_NAMES = {
    "BitAgent": {"name": "count", "description": "Counts.", "arguments": FLAT},
    "args": {"name": "count", "description": "Counts.", "args": SCHEMA},
    "params": {"name": "count", "description": "Counts.", "params": FLAT, "parameters": None},
    "inputs": {
        "name": "count",
        "description": "Counts.",
        "inputs": [{"name": name, **told} for name, told in FLAT.items()],
    },
    "ToolBench": {
        "name": "count",
        "description": "Counts.",
        "required_parameters": [{"name": "pond", **FLAT["pond"]}],
        "optional_parameters": [{"name": "days", "description": "How long.", "type": "int", "default": 1}],
    },
    "names": {"tool_name": "count", "tool_description": "Counts.", "parameters": SCHEMA},
    "functions": {
        "function_name": "count",
        "function_description": "Counts.",
        "args_schema": json.dumps(SCHEMA),
    },
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
@pytest.mark.parametrize("name", OTHER_NAMES)
def test_names_and_parameters_may_be_called_otherwise(name, wrapped):
    tool = OTHER_NAMES[name]
    [read] = plain_tools([{"type": "function", "function": tool} if wrapped else tool])
    assert (read["function"] if wrapped else read) == {**NAMED, "parameters": SCHEMA}


def test_lists_without_parameters_are_an_empty_schema():
    [read] = plain_tools([{**NAMED, "required_parameters": [], "optional_parameters": []}])
    assert read == {**NAMED, "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "tool",
    [
        {**NAMED, "parameters": SCHEMA, "arguments": FLAT},
        {**NAMED, "parameters": {}, "inputs": "a pond"},
        {**NAMED, "args": "pond"},
        {**NAMED, "arguments": ["pond"]},
        {"description": "Counts.", "arguments": FLAT},
        {**NAMED, "required_parameters": ["pond"], "optional_parameters": []},
    ],
    ids=["both", "no parameters", "a text", "names alone", "no name", "lists of names"],
)
def test_what_may_be_no_parameters_stays_as_it_is(tool):
    assert plain_tools([tool]) == [tool]
