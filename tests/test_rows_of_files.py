"""Rows as files hold them: tools, calls, reasoning, training marks and pairs under every name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from row_builders import (
    ASKED,
    CALL,
    as_lines,
    as_parquet,
    assistant,
    documents_of,
    of_rows,
    read,
    user,
)

from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.read.sources import open_sources


@pytest.mark.parametrize("nothing", [None, [], {}, "", "[]", " [] ", "{}", "null", "None", '"[]"'])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": ASKED},
        {"conversations": [{"from": "human", "value": "Tide?"}, {"from": "gpt", "value": "14:20."}]},
        {"prompt": "Tide?", "completion": "14:20."},
        {"instruction": "Tide?", "output": "14:20."},
        {"prompt": ASKED[:1], "chosen": ASKED[1:], "rejected": ASKED[1:]},
    ],
    ids=lambda row: next(iter(row)),
)
def test_what_stands_for_no_tools_is_none(tmp_path, nothing, row):
    for column in ("tools", "functions"):
        for roles, contents, extra in of_rows(tmp_path, {**row, column: nothing}):
            assert (roles, contents, extra) == (["user", "assistant"], ["Tide?", "14:20."], {})


@pytest.mark.parametrize(
    "given",
    [
        [CALL],
        json.dumps([CALL]),
        json.dumps(json.dumps([CALL])),
        CALL,
        [json.dumps(CALL)],
        [{"id": "c1", **CALL["function"]}],
        [{**CALL, "function": json.dumps(CALL["function"])}],
        {key: [value] for key, value in CALL.items()},
    ],
)
def test_calls_are_read_from_texts_and_without_their_wrapper(tmp_path, given):
    message = {"role": "assistant", "content": None, "tool_calls": given}
    [(_, contents, extra)] = of_rows(tmp_path, {"messages": [user("Tide?"), message]})
    assert contents == ["Tide?", None]
    assert extra["messages"][1]["tool_calls"] == [CALL]


@pytest.mark.parametrize("key", ["arguments", "parameters", "args", "input", "kwargs"])
@pytest.mark.parametrize("name", ["tool_calls", "tool_call", "toolCalls", "function_calls", "function_call"])
def test_calls_are_read_under_other_names_and_never_lose_their_arguments(tmp_path, key, name):
    call = {"name": "tide", key: {"day": 1}, "id": "c1", "type": "tool_call"}
    wanted = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": {"day": 1}}}
    shape = replace(Shape.of("messages", {}, ["messages"], []), readable=frozenset())
    for held in (call, {"function": {"name": "tide", key: {"day": 1}}, "id": "c1"}):
        row = {"messages": [user("Tide?"), assistant("So.", **{name: [held]})]}
        for data in (as_lines([row]), as_parquet([row], row)):
            [found] = read(data, 1, shape)
            assert found[4]["messages"][1]["tool_calls"] == [wanted]


@pytest.mark.parametrize("name", ["reasoning", "thinking", "thought", "cot", "Reasoning", "thinking_content"])
@pytest.mark.parametrize(
    "form", ["a\nb", ["a", "b"], [{"type": "text", "text": "a\nb"}], {"content": "a\nb"}]
)
def test_reasoning_is_a_text_whatever_its_name_and_form(tmp_path, name, form):
    row = {"messages": [user("Tide?"), assistant("14:20.", **{name: form})]}
    shape = replace(Shape.of("messages", {}, ["messages"], []), readable=frozenset())
    for data in (as_lines([row]), as_parquet([row], row)):
        [found] = read(data, 1, shape)
        assert list(found[4]["messages"][1].values()) == ["a\nb"]
        assert set(found[4]["messages"][1]) <= {"reasoning", "thinking", "reasoning_content"}
    thinking = [{"type": "thinking", "thinking": form}, {"type": "text", "text": "14:20."}]
    [(_, contents, extra)] = of_rows(tmp_path, {"messages": [user("Tide?"), assistant(thinking)]})
    assert (contents[1], extra["messages"][1]) == ("14:20.", {"reasoning_content": "a\nb"})


def test_older_functions_are_tools_and_their_calls_calls(tmp_path):
    function = {"name": "tide", "description": "High water"}
    told = '{"day": 1}'
    row = {
        "messages": [
            user("Tide?"),
            {"role": "assistant", "function_call": {"name": "tide", "arguments": told}},
            {"role": "function", "name": "tide", "content": "14:20"},
        ],
        "functions": [function],
    }
    [(roles, contents, extra)] = of_rows(tmp_path, row)
    assert (roles, contents) == (["user", "assistant", "tool"], ["Tide?", None, "14:20"])
    assert extra["tools"] == [{"type": "function", "function": function}]
    assert extra["messages"][1:] == [
        {"tool_calls": [{"type": "function", "function": {"name": "tide", "arguments": told}}]},
        {"name": "tide"},
    ]


@pytest.mark.parametrize(
    "mark",
    [
        {"loss": False},
        {"training": 0},
        {"trainable": False},
        {"weight": 0.0},
        {"loss_weight": 0},
        {"mask": 1},
        {"Loss": False},
        {"should-train": False},
        {"is_trainable": 0},
        {"no_loss": True},
    ],
)
def test_every_name_of_do_not_train_is_honored(tmp_path, mark):
    talk = [user("1"), assistant("a", **mark), user("2"), assistant("b", loss=True, weight=1)]
    shapes = [
        {"messages": talk},
        {"prompt": talk[:1], "completion": talk[1:]},
        {"prompt": talk[:1], "chosen": talk[1:], "rejected": [assistant("c")]},
    ]
    for row in shapes:
        extra = of_rows(tmp_path, row)[0][2]
        assert extra["messages"][1:] == [{"train": False}, {}, {}]


@pytest.mark.parametrize("mark", [{"loss_on_turn": False}, {"TrainMe": 0, "unmasked_loss": True}])
@pytest.mark.parametrize("readable", [None, frozenset({"name"})])
def test_a_truth_under_another_name_that_speaks_of_training_sets_the_row_aside(mark, readable):
    rows = [{"messages": ASKED}, {"messages": [user("1"), assistant("a", note="x", **mark)]}]
    shape = replace(Shape.of("messages", {}, ["messages"], rows), readable=readable)
    for data in (as_lines(rows), as_parquet(rows, {"messages": []})):
        kept, aside = read(data, 2, shape)
        assert kept[2:4] == (["user", "assistant"], ["Tide?", "14:20."])
        assert aside == (1,)


@pytest.mark.parametrize(("call", "answer"), [("tool_call", "tool_response"), ("Tool-Calls", "tool result")])
def test_turns_of_calls_and_answers_are_known_in_every_spelling(tmp_path, call, answer):
    told = json.dumps({"name": "tide", "arguments": {}})
    turns = [
        {"from": "human", "value": "Tide?"},
        {"from": call, "value": told},
        {"from": answer, "value": "2"},
    ]
    [(roles, contents, extra)] = of_rows(tmp_path, {"conversations": turns})
    assert (roles, contents) == (["user", "assistant", "tool"], ["Tide?", "", "2"])
    assert extra["messages"][1]["tool_calls"][0]["function"]["name"] == "tide"


@pytest.mark.parametrize("nothing", [None, "", " ", "{}", "null", {}])
def test_arguments_that_say_nothing_are_none(tmp_path, nothing):
    call = {"type": "function", "function": {"name": "tide", "arguments": nothing}}
    [(_, _, extra)] = of_rows(tmp_path, {"messages": [user("Tide?"), assistant(None, tool_calls=[call])]})
    assert extra["messages"][1]["tool_calls"][0]["function"]["arguments"] in ({}, "{}")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [{"role": "system", "content": "S"}, user("q")], "chosen": [user("q")], "system": ""},
        {"prompt": [user("q")], "chosen": [{"role": "system", "content": "S"}, user("q")]},
        {"prompt": "q", "chosen": [{"role": "system", "content": "S"}, user("q")], "system": "S"},
        {"chosen": [{"role": "system", "content": " S"}, user("q")], "system": "S"},
        {"prompt": [user("q")], "chosen": [user("q", timestamp=1)], "system": "S"},
        {"prompt": "q", "chosen": [user("q")], "system": "S"},
        {"prompt": json.dumps([user("q")]), "chosen": json.dumps([user("q")]), "system": "S"},
    ],
)
def test_pairs_of_whole_conversations_say_no_turn_twice(tmp_path, row):
    given = row["chosen"]
    talk = json.loads(given) if isinstance(given, str) else given
    sides = [[*talk, assistant(answer)] for answer in ("yes", "no")]
    if isinstance(given, str):
        sides = [json.dumps(side) for side in sides]
    found = of_rows(tmp_path, {**row, "chosen": sides[0], "rejected": sides[1]})
    assert [roles for roles, _, _ in found] == [["system", "user", "assistant"]] * 2
    assert [[text.strip() for text in contents] for _, contents, _ in found] == [
        ["S", "q", "yes"],
        ["S", "q", "no"],
    ]


@pytest.mark.parametrize("system", [None, "S"])
def test_a_pair_of_which_one_side_says_the_prompt_again_says_no_turn_twice(tmp_path, system):
    whole, alone = [user("q"), assistant("yes")], [assistant("no")]
    for row in (
        {"prompt": [user("q")], "chosen": whole, "rejected": alone},
        {"prompt": "q", "chosen": whole, "rejected": "no"},
        {"prompt": [user("p"), assistant("a"), user("q")], "chosen": whole, "rejected": alone},
    ):
        good, bad = of_rows(tmp_path, {**row, "system": system})
        assert good[0] == bad[0]
        assert good[1][:-1] == bad[1][:-1]
        assert (good[1][-1], bad[1][-1]) == ("yes", "no")


def test_a_message_alone_is_read_from_a_text_and_an_answer_in_json_is_not(tmp_path):
    row = {"prompt": [user("q")], "chosen": assistant("yes"), "rejected": {"from": "gpt", "value": "no"}}
    texts = {name: json.dumps(value) for name, value in row.items()}
    assert of_rows(tmp_path, texts) == of_rows(tmp_path, row)
    for said in (
        '{"role": "admin", "content": "x"}',
        '{"role": "user", "id": 7, "content": "x"}',
        '{"a": 1}',
    ):
        [(_, contents, _)] = of_rows(tmp_path, {"prompt": "q", "completion": said})
        assert contents == ["q", said]


@pytest.mark.parametrize("nothing", [None, {}, "", "{}", "null", "None", " "])
def test_arguments_of_the_template_that_say_nothing_are_none(tmp_path, nothing):
    assert of_rows(tmp_path, {"messages": ASKED, "chat_template_kwargs": nothing})[0][2] == {}


def test_messages_in_lists_of_texts_and_objects_of_lists_are_read(tmp_path):
    turned = {"role": ["user", "assistant"], "content": ["Tide?", "14:20."]}
    for value in (list(map(json.dumps, ASKED)), json.dumps(json.dumps(ASKED)), turned):
        assert of_rows(tmp_path, {"messages": value}) == [(["user", "assistant"], ["Tide?", "14:20."], {})]


def test_messages_that_python_printed_are_named_in_the_hint(tmp_path):
    from tokpack.errors import UsageError

    (tmp_path / "a.csv").write_text(f'id,messages\n0,"{ASKED}"\n', encoding="utf-8")
    with pytest.raises(UsageError) as error:
        detect_shape(open_sources((SourceConfig(path=str(tmp_path / "a.csv")),))[0])
    assert "json.dumps" in error.value.hint


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (("11-nulls/rows.jsonl", "11-nulls/rows.parquet", "11-nulls/saved"), True),
        (
            ("11-nulls/rows.jsonl", "12-json/rows.parquet", "12-json/rows-mixed.parquet", "12-json/saved"),
            True,
        ),
        (("18-mixed/rows.jsonl", "18-mixed/rows.parquet"), True),
        (("13-types/timestamp.parquet", "13-types/pairs.parquet"), False),
    ],
)
def test_files_that_failed_once_are_read(names, same):
    folder = Path(__file__).parents[2] / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    found = [documents_of(folder / name) for name in names]
    assert all(found)
    assert not same or all(documents == found[0] for documents in found)
