"""Columns are known in every spelling of their names."""

from __future__ import annotations

import json

import pytest
from rows_read import documents

TOOL = {"type": "function", "function": {"name": "count", "parameters": {"type": "object", "properties": {}}}}
ROWS = [
    {"system_prompt": "Be brief.", "user_prompt": "Ducks?", "assistant_response": "Three."},
    {"question": "Ducks?", "chain_of_thought": "I count.", "final_answer": "Three."},
    {"prompt": "Ducks?", "chosen_response": "Three.", "rejected_response": "No."},
    {"chat_messages": [{"role": "user", "content": "Ducks?"}, {"role": "assistant", "content": "Three."}],
     "available_tools": [TOOL]},
    {"chat_history": [["Hi", "Hello."]], "input_text": "Ducks?", "output_text": "Three."},
]  # fmt: skip
SPELLINGS = {
    "camel": lambda name: "".join(w.title() if i else w for i, w in enumerate(name.split("_"))),
    "pascal": lambda name: name.title().replace("_", ""),
    "spaces": lambda name: name.title().replace("_", " "),
    "hyphens": lambda name: name.replace("_", "-"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_columns_are_known_in_every_spelling(row, spelling, tmp_path):
    found, aside, shape = documents(tmp_path, [row])
    (tmp_path / "other").mkdir()
    spelled = {SPELLINGS[spelling](name): value for name, value in row.items()}
    again, beside, other = documents(tmp_path / "other", [spelled])
    assert (again, beside, other.format) == (found, aside, shape.format)
    assert not aside
    assert not shape.unread
    assert not other.unread


def test_a_column_that_is_spelled_as_usual_comes_first(tmp_path):
    row = {
        "System Prompt": "Quack.",
        "system_prompt": "Be brief.",
        "prompt": "Ducks?",
        "completion": "Three.",
    }
    [(roles, contents, _, _)], _, shape = documents(tmp_path, [row])
    assert (roles[0], contents[0]) == ("system", "Be brief.")
    assert json.loads(json.dumps(shape.unread)) == {"System Prompt": "Quack."}


@pytest.mark.parametrize("name", ["function", "function_description", "functionDefinitions", "tool_schemas"])
@pytest.mark.parametrize(
    "held", [[TOOL], TOOL["function"], json.dumps([TOOL["function"]]), json.dumps(TOOL["function"])], ids=type
)
def test_a_column_of_tools_is_known_by_what_it_holds(name, held, tmp_path):
    row = {"prompt": "Ducks?", "completion": "Three.", name: held}
    [(_, _, extra, _)], _, shape = documents(tmp_path, [row, {**row, name: None}][:1])
    [tool] = json.loads(extra)["tools"]
    assert tool.get("function", tool) == TOOL["function"]
    assert not shape.unread


@pytest.mark.parametrize("held", ["def count(): pass", ["count"], {"count": 3}, [{"pond": 1}], "[]"], ids=str)
def test_what_holds_no_tools_is_named_as_unread(held, tmp_path):
    row = {"prompt": "Ducks?", "completion": "Three.", "function": held}
    [(_, _, extra, _)], aside, shape = documents(tmp_path, [row])
    assert (extra, aside, set(shape.unread)) == (None, [], {"function"})
