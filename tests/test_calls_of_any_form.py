"""Calls, tools and reasoning under the many names that data has for them, from every container."""

from __future__ import annotations

import json

import pytest
from layout_words import PAIR, TOOL, A, B, Q, R, S, msgs
from rows_read import documents

FUNCTION = TOOL["function"]
USER, ANSWER = msgs(Q, A)
FOUND = {"role": "tool", "content": "3"}
CALLED = {"name": "count", "arguments": {"pond": 1}}
FORMS = {
    "by name": {"count": {"pond": 1}},
    "tool_name": [{"tool_name": "count", "tool_args": {"pond": 1}}],
    "toolName": [{"toolName": "count", "args": {"pond": 1}}],
    "tool": [{"tool": "count", "arguments": {"pond": 1}}],
    "action": [{"action": "count", "action_input": '{"pond": 1}'}],
    "Python": "count(pond=1)",
    "Python in a list": "[count(pond=1)]",
    "Python, one a line": ["count(pond=1)"],
    "printed": "{'name': 'count', 'arguments': {'pond': 1}}",
    "printed in a list": "[{'name': 'count', 'arguments': '{\"pond\": 1}'}]",
    "printed, one a line": ["{'name': 'count', 'arguments': {'pond': 1}}"],
    "glaive": """{"name": "count", "arguments": '{"pond": 1}'}""",
}


@pytest.mark.parametrize("container", ["jsonl", "parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_a_call_of_any_form_is_read(form, container, tmp_path):
    talk = [USER, {"role": "assistant", "content": "", "tool_calls": FORMS[form]}, FOUND, ANSWER]
    [(_, _, extra, _)], _, _ = documents(tmp_path, [{"messages": talk}], container)
    [call] = json.loads(extra)["messages"][1]["tool_calls"]
    arguments = call["function"]["arguments"]
    read = {
        **call["function"],
        "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments,
    }
    assert (call["type"], read) == ("function", CALLED)


@pytest.mark.parametrize("key", ["tool_call_id", "toolCallId", "call_id"])
def test_the_number_of_a_call_is_its_id(key, tmp_path):
    call = {**CALLED, key: "c1"}
    talk = [USER, {"role": "assistant", "content": "", "tool_calls": [call]}, FOUND, ANSWER]
    [(_, _, extra, _)], _, _ = documents(tmp_path, [{"messages": talk}])
    assert json.loads(extra)["messages"][1]["tool_calls"][0]["id"] == "c1"


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([{"why": "x"}], "messages[2].tool_calls[1] has no name"),
        ("count(1)", "messages[2].tool_calls is not JSON"),
        ("count(pond=1) and go", "messages[2].tool_calls is not JSON"),
        ("count(**more)", "messages[2].tool_calls is not JSON"),
    ],
)
def test_what_is_no_call_sets_the_row_aside(calls, reason, tmp_path):
    talk = [USER, {"role": "assistant", "content": "", "tool_calls": calls}, FOUND, ANSWER]
    assert documents(tmp_path, [{"messages": talk}])[1] == [reason]


@pytest.mark.parametrize("container", ["jsonl", "parquet"])
def test_tools_and_calls_of_olmo_are_read(container, tmp_path):
    talk = [
        {"role": "system", "content": S, "functions": json.dumps([FUNCTION])},
        USER,
        {"role": "assistant", "content": None, "function_calls": "count(pond=1)\ncount(pond=2)"},
        {"role": "environment", "content": "3"},
        ANSWER,
    ]
    [(roles, _, extra, _)], _, shape = documents(tmp_path, [{"messages": talk}], container)
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    read = json.loads(extra)
    assert read["tools"] == [TOOL]
    calls = [call["function"]["arguments"] for call in read["messages"][2]["tool_calls"]]
    assert (calls, dict(shape.unread)) == ([{"pond": 1}, {"pond": 2}], {})


@pytest.mark.parametrize("role", ["system", "user"])
def test_tools_of_messages_are_those_of_their_row_beside_its_own(role, tmp_path):
    other, again = (
        {"type": "function", "function": {"name": "other", **more}} for more in ({}, {"strict": 1})
    )
    first = {"role": role, "content": S, "tools": [TOOL]}
    second = {**USER, "tools": [again, TOOL]}
    rows = [
        {"messages": [first, USER, ANSWER]},
        {"messages": [first, USER, ANSWER], "tools": [other]},
        {"messages": [first, USER, ANSWER, second, ANSWER]},
        {"messages": [first, USER, ANSWER, second, ANSWER], "tools": json.dumps([other])},
        {"messages": [first, {**USER, "functions": [TOOL["function"]]}, ANSWER]},
    ]
    found, _, _ = documents(tmp_path, rows)
    given = [json.loads(extra)["tools"] for _, _, extra, _ in found]
    assert given == [[TOOL], [other, TOOL], [TOOL, again], [other, TOOL], [TOOL]]


@pytest.mark.parametrize(
    "tools",
    [{"functions": [FUNCTION]}, f"{json.dumps(FUNCTION)}\n{json.dumps(FUNCTION)}"],
    ids=["an object of functions", "one after another"],
)
def test_tools_of_any_form_are_functions(tools, tmp_path):
    [(_, _, extra, _)], _, _ = documents(tmp_path, [{"messages": [USER, ANSWER], "tools": tools}])
    assert json.loads(extra)["tools"][0] == FUNCTION


def test_a_list_of_reasoning_is_read_whole(tmp_path):
    [(_, _, extra, _)], _, _ = documents(
        tmp_path, [{"prompt": Q, "response": A, "reasoning": [R, "So three."]}]
    )
    assert json.loads(extra)["messages"][1] == {"reasoning_content": f"{R}\nSo three."}


@pytest.mark.parametrize("key", ["thinking_content", "thought_process", "model_reasoning"])
def test_reasoning_of_any_name_beside_an_answer_is_read(key, tmp_path):
    [(_, _, extra, _)], _, _ = documents(tmp_path, [{"prompt": Q, "response": A, key: R}])
    assert json.loads(extra)["messages"][1] == {"reasoning_content": R}


@pytest.mark.parametrize("name", ["response", "output", "completion", "answer"])
def test_a_rejected_answer_beside_one_of_that_name_makes_a_pair(name, tmp_path):
    found, _, shape = documents(tmp_path, [{"query": Q, name: A, f"rejected_{name}": B}])
    assert [list(zip(roles, contents, strict=True)) for roles, contents, *_ in found] == PAIR
    assert shape.format == "preference"


@pytest.mark.parametrize("container", ["jsonl", "parquet"])
@pytest.mark.parametrize("form", [name for name, call in FORMS.items() if isinstance(call, str)])
def test_a_turn_that_is_a_call_of_any_form_is_read(form, container, tmp_path):
    turns = [("human", Q), ("function_call", FORMS[form]), ("observation", "3"), ("gpt", A)]
    row = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    [(roles, _, extra, _)], _, _ = documents(tmp_path, [row], container)
    assert roles == ["user", "assistant", "tool", "assistant"]
    [call] = json.loads(extra)["messages"][1]["tool_calls"]
    arguments = call["function"]["arguments"]
    assert (json.loads(arguments) if isinstance(arguments, str) else arguments) == {"pond": 1}


@pytest.mark.parametrize(
    "text",
    [
        "{'name': 'count', 'arguments': {'pond': open('x')}}",
        "{'name': 'count', 'arguments': '{\"owner\": \"it's\"}'}",
        "{'name': 'count', 'arguments': {'pond': {1, 2}}}",
        "{'pond': 1, 'days': 2}",
        "[{'name': 'count'}, 3]",
        "{'name': 3, 'arguments': {}}",
    ],
)
def test_what_is_printed_and_no_call_sets_its_row_aside(text, tmp_path):
    row = {"conversations": [{"from": "human", "value": Q}, {"from": "function_call", "value": text}]}
    found, [reason], _ = documents(tmp_path, [row])
    assert not found
    assert "what Python prints" in reason or "no name" in reason or "not JSON" in reason
