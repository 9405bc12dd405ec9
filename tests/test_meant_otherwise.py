"""Columns, roles and tools that are easily taken for something else."""

from __future__ import annotations

import json

import pytest
from layout_words import BARE, CALL, A, C, Q, S, msgs, turns
from normalizing import run

from tokpack.errors import UsageError

GENERIC = "Answer as a keeper of ponds would."


def test_xlams_parameters_become_a_schema_as_templates_read_it(tmp_path):
    flat = {
        "pond": {"description": "Which.", "type": "int"},
        "birds": {"type": "List[str], optional", "default": ["duck"]},
        "far": {"type": "Optional[float]"},
        "how": {"type": "Callable"},
    }
    tools = [{"name": "count", "description": "Count.", "parameters": flat}]
    row = {"id": 0, "query": Q, "answers": json.dumps([CALL["function"]]), "tools": json.dumps(tools)}
    found, _, _ = run(tmp_path, [row])
    [tool] = json.loads(found["extra"][0])["tools"]
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "pond": {"description": "Which.", "type": "integer"},
            "birds": {"type": "array", "items": {"type": "string"}, "default": ["duck"]},
            "far": {"type": "number"},
            "how": {"type": "Callable"},
        },
        "required": ["pond", "how"],
    }
    row["tools"] = json.dumps([BARE])
    found, _, _ = run(tmp_path, [row])
    assert json.loads(found["extra"][0])["tools"] == [{"type": "function", "function": BARE}]


@pytest.mark.parametrize("other", ["question", "query", "prompt"])
def test_an_instruction_and_a_question_beside_it_are_not_chosen_between(other, tmp_path):
    row = {"instruction": GENERIC, other: Q, "answer": A}
    with pytest.raises(UsageError, match=f"instruction and {other} both hold what is asked") as error:
        run(tmp_path, [row])
    ways = {
        f"instruction=instruction,input={other},output=answer": turns(f"{GENERIC}\n{Q}", A),
        f"system=instruction,prompt={other},completion=answer": turns(Q, A, system=GENERIC),
    }
    for way, document in ways.items():
        assert way in error.value.hint
        found, _, _ = run(tmp_path, [row], map=dict(part.split("=") for part in way.split(",")))
        assert list(zip(found["roles"][0], found["contents"][0], strict=True)) == document


def test_a_prompt_that_is_the_instruction_written_out_is_left(tmp_path):
    row = {
        "instruction": Q,
        "input": C,
        "output": A,
        "prompt": f"Below is a task.\n\n{Q}\n\n{C}",
        "user": "x",
    }
    found, _, _ = run(tmp_path, [row])
    assert found["contents"].to_list() == [[f"{Q}\n{C}", A]]


def test_roles_that_no_template_knows_are_named(tmp_path):
    chat = [{"role": "narrator", "content": S}, *msgs(Q, A)]
    _, _, shape = run(tmp_path, [{"messages": chat}])
    [note] = shape.notes
    assert note.startswith("messages of roles that no template knows: 'narrator'; --map user=NAME")


def test_a_colon_behind_a_role_does_not_count(tmp_path):
    chat = [{"role": f"{role.title()}:", "content": text} for role, text in turns(Q, A)]
    found, _, _ = run(tmp_path, [{"messages": chat}])
    assert found["roles"].to_list() == [["user", "assistant"]]


def test_a_tool_as_python_prints_it_is_told_so(tmp_path):
    _, [entry], _ = run(tmp_path, [{"messages": msgs(Q, A), "tools": [str(BARE)]}])
    assert entry.reason == "tools[1] is what Python prints, not JSON: write it with json.dumps"
