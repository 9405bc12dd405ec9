"""Reasoning twice or encrypted, arguments that are no objects, tools that answer with data: read, or told."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encode_helpers import template
from normalizing import run
from row_builders import ASKED, CALL, TOOL, as_parquet, assistant, documents_of, of_rows, read, user
from rows_read import documents
from test_template_forms import AS_JSON, ASK, CALLS, END, LOOP, TELL, calling, folder, rendered, trained

from tokpack.errors import UsageError
from tokpack.stages.normalize.layouts.unread import still_unread
from tokpack.stages.normalize.shape import Shape

__all__ = ["folder"]

THINKING = (
    LOOP + "{% if m.thinking %}<think>{{ m.thinking }}</think>{% endif %}{{ m.content or '' }}" + "</s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TWO = {"reasoning_content": "Why.", "reasoning": "Other."}
PLAIN = [
    {"thinking_blocks": [{"type": "thinking", "thinking": "Why.", "signature": "x"}]},
    {"reasoning_details": [{"type": "reasoning.text", "text": "Why."}]},
    {"reasoning_details": [{"type": "reasoning.summary", "summary": "Why."}], "reasoning": "Why."},
    {"reasoning_details": '[{"type": "reasoning.text", "text": "Why."}]'},
    {"reasoning": "Why.", "reasoning_content": "Why.\n", "thought": " Why."},
]
UNREAD = [
    {"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}, {"thinking": "Why."}]},
    {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}], "reasoning": "Why."},
    {"reasoning_details": [{"type": "reasoning.text", "text": "Other."}], "reasoning": "Why."},
    {"thought": "Other.", "reasoning_content": "Why."},
    {"cot": "Other.", "thought": "Why."},
]


@pytest.mark.parametrize("more", PLAIN + UNREAD)
def test_reasoning_is_read_once_and_what_is_not_read_is_noted(tmp_path, more):
    row = {"messages": [user("Tide?"), assistant("14:20.", **more)]}
    noted = {"reasoning_is_unread": True} if more in UNREAD else {}
    shape = Shape.of("messages", {}, ["messages"], [])
    for [(_, _, _, contents, extra, _)] in (
        read(json.dumps(row).encode(), 1, shape),
        read(as_parquet([row], row), 1, shape),
    ):
        assert contents[1] == "14:20."
        [(_, thought), *rest] = extra["messages"][1].items()
        assert (thought.strip(), dict(rest)) == ("Why.", noted)


def test_two_reasonings_under_names_that_templates_know_are_left_to_the_template(tmp_path):
    [(_, _, extra)] = of_rows(tmp_path, {"messages": [user("Tide?"), assistant("14:20.", **TWO)]})
    assert extra["messages"][1] == TWO


@pytest.mark.parametrize(
    "blocks",
    [
        [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "14:20."}],
        [{"type": "thinking", "thinking": "", "signature": "x"}, {"type": "text", "text": "14:20."}],
    ],
)
def test_encrypted_blocks_in_a_content_are_noted(tmp_path, blocks):
    [(_, contents, extra)] = of_rows(tmp_path, {"messages": [user("Tide?"), assistant(blocks)]})
    assert (contents[1], extra["messages"][1]) == ("14:20.", {"reasoning_is_unread": True})


def test_fields_beside_blocks_of_a_content_are_read(tmp_path):
    said = [{"type": "output_text", "text": "I look."}]
    talk = [user("Tide?"), assistant(said, tool_calls=[CALL], reasoning_content="Why.")]
    talk += [{"role": "tool", "content": [{"type": "output_text", "text": "14:20"}], "tool_call_id": "c1"}]
    [(_, contents, extra)] = of_rows(tmp_path, {"messages": talk, "tools": [TOOL]})
    assert contents == ["Tide?", "I look.", "14:20"]
    assert extra["messages"][1:] == [
        {"tool_calls": [CALL], "reasoning_content": "Why."},
        {"tool_call_id": "c1"},
    ]


@pytest.mark.parametrize("rows", [1, 5])
def test_reasoning_that_is_not_read_or_written_twice_is_counted(folder, rows):
    block = {**TELL, "content": "<think>\nLook.\n</think>\nFine."}
    cases = [
        ([ASK, {**TELL, "reasoning_is_unread": True}], {"reasoning_not_read": rows}),
        ([ASK, {**TELL, **TWO}], {"reasoning_not_rendered": rows}),
        ([ASK, {**block, "reasoning_content": "Ask."}], {"reasoning_rendered_twice": rows}),
        ([ASK, {**block, "reasoning_content": "Look."}], {"reasoning_rendered_twice": rows}),
        ([ASK, {**TELL, "reasoning_content": "Look."}], {}),
        ([ASK, block], {}),
    ]
    for chat, told in cases:
        assert rendered(folder, THINKING, *[chat] * rows).told == told
    mixed = [chat for chat, _ in cases for _ in range(rows)]
    counted = {
        "reasoning_not_read": rows,
        "reasoning_not_rendered": rows,
        "reasoning_rendered_twice": 2 * rows,
    }
    assert rendered(folder, THINKING, *mixed).told == counted


ONLY_OBJECTS = (
    LOOP + "{{ m.content or '' }}" + CALLS + "{% if c.function.arguments is mapping %}"
    "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}{% endif %}" + END
)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("arguments", [["Rome", 7120], 7120, "to Rome", {"town": "Rome"}, {}])
def test_arguments_that_the_template_leaves_out_are_counted(folder, arguments, rows):
    told = rendered(folder, ONLY_OBJECTS, *[[ASK, calling(arguments, content="")]] * rows).told
    assert told == ({} if isinstance(arguments, dict) else {"call_arguments_not_rendered": rows})


DATA = [
    *({"sky": 'bl"ue é', "high": {"c": [1, None, True]}}, [1, "a"], ["a", "b"], [{"a": 1}], 42, True, {}),
    [{"type": "duck", "name": "Rex"}],
    [{"type": "resource_link", "uri": "file:///pond"}, {"type": 1}],
]


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [('{"pond": 1', 1), ("[1]", 1), ("pond", 1), ('{"pond": 1}', 0), ({"pond": 1}, 0), ("", 0), (None, 0)],
    ids=str,
)
def test_arguments_that_are_no_object_are_counted(folder, arguments, told, rows):
    """They are written as a text in quotes, where the template writes objects."""
    chat = [ASK, calling(arguments), TELL]
    found = rendered(folder, AS_JSON, *[chat] * rows)
    assert found.told.get("call_arguments_no_object", 0) == told * rows


AS_EITHER = (
    LOOP + "{{ m.content }}" + CALLS + "{{ c.function.name }}"
    "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
    "{{ c.function.arguments | tojson }}{% endif %}" + END
)


@pytest.mark.parametrize("arguments", ['{"pond": 1}', '{"pond": 1'])
def test_arguments_in_texts_are_not_counted_where_the_template_writes_texts_as_they_are(folder, arguments):
    found = rendered(folder, AS_EITHER, [ASK, calling(arguments), TELL])
    assert arguments in found.text[0].as_py()
    assert found.told == {}


@pytest.mark.parametrize("data", DATA)
def test_a_tool_that_answers_with_data_is_read(tmp_path, data):
    talk = [*ASKED[:1], assistant("", tool_calls=[CALL]), {"role": "tool", "content": data}, *ASKED[1:]]
    written = json.dumps(data, ensure_ascii=False)
    [(_, contents, extra)] = of_rows(tmp_path, {"messages": talk, "tools": [TOOL]})
    assert (contents[2], extra["messages"][2]) == (written, {"content_is_json": True})
    for part in ({"type": "image", "url": "x"}, {"type": "text", "text": "a"}):
        talk[2] = {"role": "tool", "content": [part]}
        shape = Shape.of("messages", {}, ["messages"], [])
        [found] = read(json.dumps({"messages": talk}).encode(), 1, shape)
        assert found[1:] == () if part["type"] == "image" else found[3][2] == "a"


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("data", DATA)
def test_data_of_tools_is_handed_over_as_the_template_writes_it_best(folder, data, rows):
    quoting = LOOP + "{{ m.content | tojson if m.role == 'tool' else m.content }}" + CALLS + END
    chat = [ASK, calling({}, content=""), {"role": "tool", "content": json.dumps(data)}, TELL]
    chat[2]["content_is_json"] = True
    for source in (template("qwen2_5", tagged=False), quoting):
        result = rendered(folder, source, *[chat] * rows)
        assert not result.errors
        assert json.dumps(data, ensure_ascii=False) in result.text[rows - 1].as_py()
        assert '"{' not in result.text[rows - 1].as_py()
        assert [text.split("<")[0] for text in trained(result, rows - 1)][-1] == "Fine."


TOOLS = {"tools": [TOOL]}
OLDER = {"functions": [TOOL["function"]]}
NONE = {"tools": None, "functions": None}


@pytest.mark.parametrize(
    "rows",
    [
        [TOOLS, OLDER],
        [OLDER, TOOLS],
        [NONE | OLDER, NONE | TOOLS],
        [{"tools": [], **OLDER}, {"functions": [], **TOOLS}],
        [OLDER | TOOLS] * 2,
        [{"functions": json.dumps(OLDER["functions"])}, {"tools": json.dumps([TOOL])}],
        [{"available_tools": [TOOL]}, TOOLS],
    ],
)
def test_tools_are_read_from_the_column_that_holds_them_in_each_row(tmp_path, rows):
    for talk in ({"messages": ASKED}, {"prompt": "Tide?", "completion": "14:20."}):
        given = [talk | row for row in rows]
        assert [extra for _, _, extra in of_rows(tmp_path, *given)] == [TOOLS] * 2
        every = {name: None for row in given for name in row}
        pq.write_table(pa.Table.from_pylist([every | row for row in given]), tmp_path / "rows.parquet")
        assert [extra for _, _, extra in documents_of(tmp_path / "rows.parquet")] == [TOOLS] * 2


def test_columns_of_different_tools_set_the_row_aside_unless_one_is_named(tmp_path):
    other = {"name": "other", "parameters": {"type": "object"}}
    row = {"messages": ASKED, **TOOLS, "functions": [other]}
    [found] = run(tmp_path, [row])[1]
    assert found.reason == "tools and functions hold different tools: --map tools=COLUMN chooses"
    [(_, _, extra)] = documents_of(tmp_path / "rows.jsonl", map={"tools": "functions"})
    assert extra == {"tools": [{"type": "function", "function": other}]}


LOOKED = {"tool_calls": [{**CALL, "function": {"name": "tide", "arguments": {"day": 1}}}]}


HELD = {"reasoning_content": "Look.", "refusal": None}
SUMMARY = {"reasoning": {"id": "r1", "summary": [{"type": "summary_text", "text": "Look."}]}}


@pytest.mark.parametrize("many", [1, 3])
@pytest.mark.parametrize(
    "answer",
    [
        {"role": "assistant", "content": "14:20", "additional_kwargs": HELD},
        {"role": "assistant", "content": "14:20", "provider_specific_fields": HELD},
        {"role": "assistant", "content": "14:20", "reasoning_content": "Look.", "additional_kwargs": HELD},
        {"type": "ai", "content": "14:20", "additional_kwargs": HELD},
        {"type": "ai", "data": {"content": "14:20", "additional_kwargs": SUMMARY}},
    ],
    ids=["LangChain as OpenAI", "LiteLLM", "twice", "LangChain", "LangChain data"],
)
def test_reasoning_that_libraries_keep_with_further_fields_is_read(tmp_path, answer, many):
    asked = (
        {"type": "human", "content": "Tide?"} if "type" in answer else {"role": "user", "content": "Tide?"}
    )
    for _, contents, extra in of_rows(tmp_path, *[{"messages": [asked, answer]}] * many):
        assert contents == ["Tide?", "14:20"]
        assert [*extra["messages"][1].values()] == ["Look."]


@pytest.mark.parametrize(
    "talk",
    [
        [
            {"type": "human", "content": "Tide?"},
            {"type": "ai", "content": "", "tool_calls": [{"name": "tide", "args": {"day": 1}, "id": "c1"}]},
            {"type": "tool", "content": "14:20", "tool_call_id": "c1"},
        ],
        [
            {"type": "human", "data": {"content": "Tide?"}},
            {"type": "ai", "data": {"content": "", "additional_kwargs": LOOKED, "tool_calls": []}},
            {"type": "tool", "data": {"content": "14:20", "tool_call_id": "c1", "type": "tool"}},
        ],
        [
            {"role": "user", "content": [{"type": "text", "text": "Tide?"}]},
            assistant([{"type": "tool-call", "toolCallId": "c1", "toolName": "tide", "input": {"day": 1}}]),
            {
                "role": "tool",
                "content": [
                    {"type": "tool-result", "toolCallId": "c1", "output": {"type": "text", "value": "14:20"}}
                ],
            },
        ],
    ],
    ids=["LangChain", "LangChain data", "AI SDK"],
)
def test_chats_of_libraries_are_read(tmp_path, talk):
    [(roles, contents, extra)] = of_rows(tmp_path, {"messages": talk})
    assert (roles, contents) == (["user", "assistant", "tool"], ["Tide?", "", "14:20"])
    assert (extra["messages"][1], extra["messages"][2]["tool_call_id"]) == (LOOKED, "c1")


def test_tools_of_mcp_are_functions(tmp_path):
    schema = TOOL["function"]["parameters"]
    tools = [{"name": "tide", "inputSchema": schema}]
    [(_, _, extra)] = of_rows(tmp_path, {"messages": ASKED, "tools": tools})
    assert extra == TOOLS


@pytest.mark.parametrize(
    "part",
    [
        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "image", "source": {}}]},
        {"toolResult": {"toolUseId": "c1", "content": [{"text": "a"}, {"image": {"format": "png"}}]}},
    ],
)
def test_images_of_tools_are_no_text(tmp_path, part):
    [found] = run(tmp_path, [{"messages": [user([part]), *ASKED]}])[1]
    assert found.reason == "messages[1]: content part of type 'image'; only text can be packed"


def test_items_and_requests_that_are_not_read_are_named(tmp_path):
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "14:20."}]}
    [found] = run(tmp_path, [{"input": "Tide?", "output": [{"type": "web_search_call", "id": "w"}, said]}])[1]
    assert found.reason == (
        "completion[1] is of type 'web_search_call': only messages, reasoning and function calls are read"
    )
    talk = [user("When is the tide?"), assistant("At 14:20, I think.")]
    with pytest.raises(UsageError) as error:
        run(tmp_path, [{"custom_id": "1", "params": {"messages": talk, "system": "Be brief."}}])
    assert "--map messages=params.messages,system=params.system" in str(error.value.hint)


@pytest.mark.parametrize("container", ["jsonl", "parquet"])
@pytest.mark.parametrize("key", ["tools", "functions"])
def test_tools_in_a_message_of_the_assistant_or_a_tool_are_named_as_unread(key, container, tmp_path):
    asked, answered = {**user("Tide?"), key: [TOOL]}, assistant("14:20.", **{key: [TOOL]})
    result = {"role": "tool", "content": "14:20", key: [TOOL]}
    called = assistant("", tool_calls=[CALL])
    turned = {
        "conversations": [{"from": "human", "value": "Tide?"}, {"from": "gpt", "value": "Now.", key: [TOOL]}]
    }
    for number, (row, unread) in enumerate(
        [
            ({"messages": [user("Tide?"), answered]}, {f"messages.{key}"}),
            ({"messages": [user("Tide?"), called, result, assistant("14:20.")]}, {f"messages.{key}"}),
            (turned, {f"conversations.{key}"}),
            ({"messages": [asked, assistant("14:20.")]}, set()),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        _, _, shape = documents(tmp_path / str(number), [row], container)
        assert set(shape.unread) == unread
        plain, whole = frozenset({"role", "content"}), frozenset({"role", "content", key})
        assert set(still_unread(replace(shape, readable=plain))) == unread
        assert not still_unread(replace(shape, readable=whole))


@pytest.mark.parametrize("column", ["tools", "functions"])
def test_names_of_tools_alone_set_a_row_aside_with_what_is_missing(column, tmp_path):
    for number, names in enumerate((["tide"], '["tide"]', [TOOL, "tide"])):
        (tmp_path / str(number)).mkdir()
        row = {"messages": [user("Tide?"), assistant("14:20.")], column: names}
        _, [reason], _ = documents(tmp_path / str(number), [row])
        assert "'tide' is the name of a tool alone, and a template needs what the tool does" in reason
