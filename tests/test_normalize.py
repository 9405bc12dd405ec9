"""Normalizing: the column path equals the row-by-row path; nothing disappears."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from normalizing import run, run_file

from tokpack.errors import UsageError
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize import normalize as stage
from tokpack.stages.normalize.documents import DOCUMENT_SCHEMA
from tokpack.stages.normalize.layouts.unread import worth_a_warning
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.normalize.rows import RowError, row_to_document
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.read.sources import open_sources

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
content = st.one_of(
    text,
    st.none(),
    st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": text}), max_size=2),
    st.integers(),
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", None])},
    optional={
        "content": content,
        "name": text,
        "train": st.booleans(),
        "tool_calls": st.just([{"type": "function"}]),
    },
)
row = st.one_of(
    st.fixed_dictionaries(
        {"messages": st.lists(message, max_size=4)},
        optional={"tools": st.just([{"name": "f"}]), "id": st.integers()},
    ),
    st.fixed_dictionaries(
        {
            "messages": st.lists(
                st.fixed_dictionaries({"role": st.just("user"), "content": text}), min_size=1, max_size=3
            )
        }
    ),
    st.sampled_from([{"messages": None}, {"messages": "text"}, {}, {"messages": [None]}, {"messages": [1]}]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(row, min_size=1, max_size=6))
def test_columns_and_rows_give_the_same_documents(tmp_path_factory, rows):
    first = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "well"}]}
    documents, quarantined, shape = run(tmp_path_factory.mktemp("n"), [first, *rows])
    expected, refused = [], []
    for number, item in enumerate([first, *rows]):
        try:
            document = row_to_document(item, shape)
            expected.append((number, document.kind, document.roles, document.contents, document.extra))
        except RowError as error:
            refused.append((number, str(error)))
    assert documents.select("doc_id", "kind", "roles", "contents", "extra").rows() == expected
    assert [(q.doc_id, q.reason) for q in quarantined] == refused
    assert documents.schema == DOCUMENT_SCHEMA


call_texts = st.sampled_from(
    [
        *('{"name": "f", "arguments": {"x": 1}}', '{"arguments": {"x": "é"}, "name": "f"}', '{"name": "f"}'),
        *(
            '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{}"}]',
            '{"name": ["f", "g"]}',
            "[{}]",
        ),
        *('{"name": "f", "arguments": {"x": NaN, "x": 1e5}}', '{"name": "f", "arguments": null}', "{}", "[]"),
        *('"{\\"name\\": \\"f\\", \\"arguments\\": {}}"', "", " null ", "f(x)", "{'name': 'f'}", "3", "[3]"),
        *('{"name": "f", "arguments": {"x": "\\ud83d"}}', '{"name": null, "arguments": {}}', '{"name": 1}'),
    ]
)
tool_texts = st.sampled_from(
    [
        *(
            '[{"name": "f", "description": "\\u00e9"}]',
            '[{"type":"function","function":{"name":"f"}}]',
            "[3]",
        ),
        *(
            '{"name": "f"}',
            "[]",
            "None",
            "",
            "[{'name': 'f'}]",
            '["{\\"name\\": \\"f\\"}"]',
            '[{"n": "\\udc00"}]',
        ),
    ]
)
turn = st.one_of(
    st.fixed_dictionaries({"from": st.just("human"), "value": text}),
    st.fixed_dictionaries(
        {"from": st.just("system"), "value": st.sampled_from(["s", '<tools>"f"', "<tools>"])}
    ),
    st.fixed_dictionaries({"from": st.sampled_from(["function_call", " Tool_Call"]), "value": call_texts}),
    st.fixed_dictionaries({"from": st.just("function_call"), "value": st.none()}, optional={"name": text}),
)
tool_row = st.fixed_dictionaries(
    {"conversations": st.lists(turn, max_size=4)},
    optional={"tools": st.one_of(tool_texts, st.none()), "system": st.sampled_from(["", "s", '<tools>"f"'])},
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(tool_row, min_size=1, max_size=12))
def test_columns_and_rows_give_the_same_tools_and_calls(tmp_path_factory, rows):
    first = {"conversations": [{"from": "human", "value": "hello"}], "tools": "[]", "system": ""}
    documents, quarantined, shape = run(tmp_path_factory.mktemp("n"), [first, *rows])
    expected, refused = [], []
    for number, item in enumerate([first, *rows]):
        try:
            document = row_to_document(item, shape)
            expected.append((number, document.roles, document.contents, document.extra))
        except RowError as error:
            refused.append((number, str(error)))
    assert documents.select("doc_id", "roles", "contents", "extra").rows() == expected
    assert [(q.doc_id, q.reason) for q in quarantined] == refused


def test_texts_of_tools_and_calls_are_read_in_columns(tmp_path, monkeypatch):
    turns = [
        {"from": "human", "value": "find x"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "gpt", "value": "one"},
    ]
    rows = [
        {"conversations": turns, "tools": '[{"name": "f"}]'},
        {"conversations": turns[::2], "tools": "[]"},
    ]
    monkeypatch.setattr(stage, "_slow_rows", None)
    documents, _, _ = run(tmp_path, rows)
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    extra = {"tools": [{"name": "f"}], "messages": [{}, {"tool_calls": [call]}, {}]}
    assert documents["extra"].to_list() == [json.dumps(extra), None]
    assert documents["contents"].to_list()[0] == ["find x", "", "one"]


@pytest.mark.parametrize(
    ("name", "rows", "roles"),
    [
        (
            "sharegpt",
            [{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}],
            ["user", "assistant"],
        ),
        ("alpaca", [{"instruction": "q", "input": "", "output": "a"}], ["user", "assistant"]),
        ("alpaca", [{"instruction": "q", "response": "a"}], ["user", "assistant"]),
        ("prompt_completion", [{"prompt": "q", "completion": "a"}], ["user", "assistant"]),
        ("text", [{"text": "a"}], ["text"]),
    ],
)
def test_formats_are_recognized_by_their_columns(tmp_path, name, rows, roles):
    documents, _, shape = run(tmp_path, rows)
    assert shape.format == name
    assert documents["roles"].to_list() == [roles]
    assert documents["contents"].to_list() == [["q", "a"] if len(roles) == 2 else ["a"]]


def test_alpaca_joins_the_input_and_keeps_system_and_history(tmp_path):
    rows = [
        {"instruction": "add", "input": "1 2", "output": "3"},
        {
            "instruction": "add",
            "input": "1 2",
            "output": "3",
            "system": "be brief",
            "history": [["hi", "hello"]],
        },
    ]
    documents, _, _ = run(tmp_path, rows)
    assert documents["contents"].to_list() == [
        ["add\n1 2", "3"],
        ["be brief", "hi", "hello", "add\n1 2", "3"],
    ]
    assert documents["roles"].to_list()[1] == ["system", "user", "assistant", "user", "assistant"]


def test_function_calls_of_sharegpt_become_tool_calls(tmp_path):
    call = {"name": "search", "arguments": {"q": "x"}}
    turns = [
        {"from": "human", "value": "find x"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "[1]"},
        {"from": "gpt", "value": "one"},
    ]
    documents, _, _ = run(tmp_path, [{"conversations": turns, "tools": json.dumps([{"name": "search"}])}])
    assert documents["roles"].to_list() == [["user", "assistant", "tool", "assistant"]]
    extra = json.loads(documents["extra"][0])
    assert extra["tools"] == [{"name": "search"}]
    assert extra["messages"][1] == {"tool_calls": [{"type": "function", "function": call}]}


@pytest.mark.parametrize(
    ("message", "row", "reason"),
    [
        ({"train": "false"}, {}, r"messages\[2\].train is a string, not true or false"),
        ({"training": 2}, {}, r"messages\[2\].training is 2: only 0, not trained, and 1"),
        ({"weight": "0"}, {}, r"messages\[2\].weight is a string, not a number"),
        ({"loss_weight": -0.5}, {}, r"messages\[2\].loss_weight is -0.5: a weight is from 0"),
        ({"loss": 0.25}, {}, r"messages\[2\].loss is 0.25"),
        ({"weight": float("inf")}, {}, r"messages\[2\].weight is inf"),
        ({"weight": 2, "loss_scale": 0.25}, {}, None),
        (
            {"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]},
            {},
            r"messages\[2\].train_de",
        ),
        ({}, {"tools": 5}, "tools is a number, not a list"),
        ({}, {"tools": '["f"]'}, r"tools\[1\] is a string, not an object"),
        ({}, {"tools": "[{'name': 'f'}]"}, "tools is what Python prints, not JSON"),
        ({"tool_calls": "{"}, {}, r"messages\[2\].tool_calls is not JSON"),
        ({"weight": 1.0, "train": None, "train_detail": []}, {"tools": ""}, None),
    ],
)
def test_directions_and_tools_that_cannot_be_read_are_quarantined(tmp_path, message, row, reason):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **message}]
    _, quarantined, _ = run(tmp_path, [{"messages": messages, **row}])
    assert len(quarantined) == (reason is not None)
    assert all(re.match(reason, q.reason) for q in quarantined)


@pytest.mark.parametrize("column", ["loss", "train"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"instruction": "q", "output": "a"},
        {"prompt": "q", "completion": "a"},
    ],
    ids=lambda row: next(iter(row)),
)
def test_a_row_that_is_not_to_be_trained_is_dropped_and_a_weight_between_set_aside(tmp_path, row, column):
    rows = [row | {column: weight} for weight in (1, 0, 1.0, 0.0)]
    assert run(tmp_path, rows)[0]["drop_reason"].to_list() == [None, "labelled_bad"] * 2
    many = [row | {column: 1}] * 150 + [row | {column: 0.5}]
    documents, (between,), _ = run(tmp_path, many, name="many.jsonl")
    assert len(documents) == 150
    assert "it is trained by 0.5: only 0" in between.reason


def test_a_column_of_weights_that_is_not_read_is_warned_of():
    assert worth_a_warning({"weight": "0.7", "loss": "1.25", "roles_to_train": '["gpt"]'}) == [
        "weight",
        "loss",
        "roles_to_train",
    ]


def test_map_names_the_columns(tmp_path):
    documents, _, _ = run(
        tmp_path, [{"question": "q", "answer": "a"}], map={"prompt": "question", "completion": "answer"}
    )
    assert documents["contents"].to_list() == [["q", "a"]]
    with pytest.raises(UsageError, match="did you mean 'question'"):
        run(tmp_path, [{"question": "q", "answer": "a"}], map={"prompt": "qestion", "completion": "answer"})


def test_unknown_rows_name_their_columns_and_the_flag(tmp_path):
    with pytest.raises(UsageError, match=r"headline, body(.|\n)*--map"):
        run(tmp_path, [{"headline": "q", "body": "a"}])


def test_date_like_strings_stay_strings(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": "2020-01-01"},
                {"role": "assistant", "content": "2020-01-01 10:00:00"},
            ]
        }
    ]
    documents, _, _ = run(tmp_path, rows)
    assert documents["contents"].to_list() == [["2020-01-01", "2020-01-01 10:00:00"]]


def test_a_key_of_changing_type_costs_speed_not_rows(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": str(i)}], "id": i if i % 2 else str(i)} for i in range(20)
    ]
    documents, quarantined, _ = run(tmp_path, rows)
    assert documents["contents"].to_list() == [[str(i)] for i in range(20)]
    assert not quarantined


def test_sliced_and_chunked_tables_keep_each_row_once(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"q{i}"}] * (i % 3 + 1)} for i in range(40)]
    table = pa.concat_tables(
        [pa.Table.from_pylist(rows).slice(0, 13), pa.Table.from_pylist(rows).slice(13, 27)]
    )
    sources = open_sources((SourceConfig(path="-", container="jsonl"),))
    from tokpack.stages.read.blocks import Block

    shape = Shape.of("messages", {}, ["messages"])
    for start, length in [(0, 40), (5, 20), (12, 3)]:
        part = table.slice(start, length)
        documents = normalize(Block(0, 0, start, start, length, length, part), sources[0], shape).documents
        assert documents["contents"].to_list() == [
            [m["content"] for m in r["messages"]] for r in rows[start : start + length]
        ]


def test_content_parts_of_text_are_joined_and_others_refused(tmp_path):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    image = [{"type": "image_url", "image_url": "x"}]
    rows = [
        {"messages": [{"role": "user", "content": parts}]},
        {"messages": [{"role": "user", "content": image}]},
    ]
    documents, quarantined, _ = run(tmp_path, rows)
    assert documents["contents"].to_list() == [["ab"]]
    assert "only text" in quarantined[0].reason


def test_every_real_file_is_read_whole(real_data):
    expected = {
        "alpaca_en_demo.json": ("alpaca", 999),
        "c4_text.jsonl": ("text", 300),
        "glaive_toolcall_en_demo.json": ("sharegpt", 300),
        "gpteacher_alpaca.jsonl.zst": ("alpaca", 30682),
    }
    for name, (form, count) in expected.items():
        documents, quarantined, shape = run_file(real_data / name)
        assert (shape.format, len(documents), quarantined) == (form, count, [])
