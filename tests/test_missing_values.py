"""NaN stands where pandas has no value, and Python's JSON writes it: in every field it is none."""

from __future__ import annotations

import json

import pytest
from rows_read import documents

NAN = float("nan")
ASKED, TOLD = {"role": "user", "content": "Ducks?"}, {"role": "assistant", "content": "Three."}
CHAT = {"messages": [ASKED, TOLD]}
TOOL = {"type": "function", "function": {"name": "count", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "count", "arguments": {"pond": 1}}}


@pytest.mark.parametrize("full", [True, False], ids=["some rows", "all rows"])
@pytest.mark.parametrize(
    ("row", "more"),
    [
        (
            CHAT,
            {"tools": [TOOL], "system": "Be brief.", "chat_template_kwargs": {"a": 1}, "reasoning": "Why."},
        ),
        (CHAT, {"label": True}),
        (
            {"instruction": "Ducks?", "output": "Three."},
            {"input": "pond", "system": "Be brief.", "history": [["Hi", "Hello."]]},
        ),
        ({"prompt": "Ducks?", "completion": "Three."}, {"reasoning": "Why.", "tools": json.dumps([TOOL])}),
        ({"prompt": "Ducks?", "chosen": "Three.", "rejected": "None."}, {"system": "Be brief."}),
    ],
    ids="-".join,
)
def test_nan_beside_an_answer_is_no_value(row, more, full, tmp_path):
    rows = [{**row, **more}] if full else []
    found, aside, _ = documents(tmp_path, [*rows, {**row, **dict.fromkeys(more, NAN)}])
    (tmp_path / "plain").mkdir()
    assert not aside
    assert found[-1] == documents(tmp_path / "plain", [*rows, row])[0][-1]


def test_nan_in_a_message_is_no_value(tmp_path):
    calling = {"role": "assistant", "content": NAN, "tool_calls": [CALL], "name": NAN}
    answer = {"role": "tool", "content": "3", "tool_call_id": NAN, "tool_calls": NAN}
    plain = [ASKED, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "3"}, TOLD]
    rows = [{"messages": [{**ASKED, "tool_calls": NAN}, calling, answer, TOLD]}, {"messages": plain}]
    [first, second], aside, _ = documents(tmp_path, rows)
    assert not aside
    assert first == second


@pytest.mark.parametrize("row", [{**CHAT, "weight": NAN}, {"messages": [ASKED, {**TOLD, "weight": NAN}]}])
def test_nan_as_a_weight_is_an_error(row, tmp_path):
    _, [reason], _ = documents(tmp_path, [row, {**CHAT, "weight": 1}])
    assert "nan" in reason


def test_nan_where_a_value_has_to_be_sets_the_row_aside(tmp_path):
    _, [reason], _ = documents(
        tmp_path, [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": NAN}]
    )
    assert reason == "completion is missing, not a string"
