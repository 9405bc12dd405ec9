"""Layouts of public sets and services: each is recognized, or refused with the command that reads it."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_cases import ASKED, CASES
from layout_words import A2, Q2, TOOL, A, B, C, Case, Q, R, S, msgs, share

from tokpack.errors import UsageError
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize import normalize as stage
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.layouts.unread import tell
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.normalize.rows import row_to_document
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources
from tokpack.stages.render.message_fields import message_fields
from tokpack.stages.render.template.chat_template import ENVIRONMENT

COLUMNS = ("roles", "contents", "extra", "drop_reason")


def read(folder, rows, parquet=False, **config):
    """(documents as rows, shape) of rows in one container."""
    path = folder / ("rows.parquet" if parquet else "rows.jsonl")
    if parquet:
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sources = open_sources((SourceConfig(path=str(path), **config),))
    shape = detect_shape(sources[0])
    parts = [normalize(block, sources[0], shape) for block in read_blocks(sources)]
    assert [q.reason for part in parts for q in part.quarantined] == []
    return pl.concat([part.documents for part in parts]).select(COLUMNS).rows(), shape


def read_for_less(folder, row, **config):
    """(roles, contents) of a row, where the template reads no field of messages but these two."""
    path = folder / "less.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    sources = open_sources((SourceConfig(path=str(path), **config),))
    shape = replace(detect_shape(sources[0]), readable=frozenset({"role", "content"}))
    [block] = read_blocks(sources)
    return normalize(block, sources[0], shape).documents.select("roles", "contents").rows()


def by_name(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("parquet", [False, True], ids=["jsonl", "parquet"])
@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_each_layout_gives_the_documents_that_it_means(case, parquet, tmp_path):
    documents, _ = read(tmp_path, [case.row], parquet, **case.way)
    assert [list(zip(roles, contents, strict=True)) for roles, contents, *_ in documents] == case.documents
    extra = json.loads(documents[0][2] or "{}")
    messages = extra.get("messages", [])
    found = {
        "tools": extra.get("tools"),
        "reasoning": next((m["reasoning_content"] for m in messages if "reasoning_content" in m), None),
        "calls": next((m["tool_calls"] for m in messages if "tool_calls" in m), None),
        "arguments": extra.get("chat_template_kwargs"),
        "dropped": documents[0][3],
    }
    assert {key: value for key, value in found.items() if value is not None} == case.more


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_each_layout_is_read_also_for_a_template_that_reads_no_field_but_role_and_content(case, tmp_path):
    documents = read_for_less(tmp_path, case.row, **case.way)
    assert [list(zip(*document, strict=True)) for document in documents] == case.documents


@pytest.mark.parametrize("case", ASKED, ids=by_name)
def test_a_layout_that_can_be_meant_in_two_ways_is_refused_with_the_command(case, tmp_path):
    with pytest.raises(UsageError) as error:
        read(tmp_path, [case.row])
    assert case.refused in (error.value.hint or "")


def test_the_table_of_layouts_in_the_docs_is_what_the_code_reads(docs_module):
    page = docs_module.PAGE.read_text(encoding="utf-8")
    assert docs_module.written(page) == page


@pytest.fixture
def docs_module():
    path = Path(__file__).parents[1] / "docs" / "make_layout_table.py"
    spec = importlib.util.spec_from_file_location("make_layout_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_not_read_is_named_with_an_example_and_what_may_matter_is_a_warning(tmp_path, caplog):
    row = {"prompt": Q, "completion": A, "score": 3, "topic": "a pond of ducks, and of geese too"}
    _, shape = read(tmp_path, [{**row, "empty": None}])
    assert dict(shape.unread) == {"score": "3", "topic": "a pond of ducks, and of geese..."}
    with caplog.at_level("INFO", "tokpack"):
        tell(["rows.jsonl", "more.jsonl"], [shape, shape])
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        (
            "INFO",
            "rows.jsonl and 1 more: prompt_completion (prompt from prompt, completion from completion); "
            "not read: score '3', topic 'a pond of ducks, and of geese...'",
        ),
        (
            "WARNING",
            "rows.jsonl and 1 more: not read, and may matter: score (--map FIELD=COLUMN reads one)",
        ),
    ]


def test_a_column_without_a_name_is_no_answer(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": "a", "input": "b", "output": "c", "": 1}]), encoding="utf-8")
    (source,) = open_sources((SourceConfig(path=str(path), format="alpaca"),))
    assert detect_shape(source).format == "alpaca"


def test_a_file_that_is_read_whole_is_told_so(tmp_path, caplog):
    _, shape = read(tmp_path, [{"prompt": Q, "completion": A, "empty": None}])
    with caplog.at_level("INFO", "tokpack"):
        tell(["rows.jsonl"], [shape])
    recognized = "prompt_completion (prompt from prompt, completion from completion)"
    assert caplog.messages == [f"rows.jsonl: {recognized}; nothing else is in it"]


@pytest.mark.parametrize("parquet", [False, True], ids=["jsonl", "parquet"])
def test_every_field_can_be_mapped_also_by_a_path(parquet, tmp_path):
    row = {
        "ask": Q,
        "say": A,
        "meta": {"sys": S, "tools": [TOOL], "why": R},
        "past": [["Hi", "Hello."]],
        "more": C,
        "args": {"enable_thinking": True},
        "good": True,
    }
    fields = {
        "prompt": "ask",
        "completion": "say",
        "system": "meta.sys",
        "tools": "meta.tools",
        "reasoning": "meta.why",
        "history": "past",
        "input": "more",
        "chat_template_kwargs": "args",
        "label": "good",
    }
    [(roles, contents, extra, dropped)], shape = read(tmp_path, [row], parquet, map=fields)
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert contents == [S, "Hi", "Hello.", f"{Q}\n{C}", A]
    assert json.loads(extra) == {
        "tools": [TOOL],
        "chat_template_kwargs": {"enable_thinking": True},
        "messages": [{}, {}, {}, {}, {"reasoning_content": R}],
    }
    assert (dropped, dict(shape.unread)) == (None, {})


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ({"prompt": "a", "completion": "a"}, ["left", "left"]),
        ({"instruction": "q", "output": "q", "input": "a"}, ["right\nleft", "right"]),
        ({"prompt": "q", "completion": "a"}, ["right", "left"]),
    ],
)
def test_a_column_may_be_mapped_to_two_fields(mapping, text, tmp_path):
    documents, _ = read(tmp_path, [{"a": "left", "q": "right"}], map=mapping)
    assert documents[0][1] == text


def test_the_better_answer_can_be_mapped_and_a_wrong_path_names_what_is_there(tmp_path):
    row = {"q": Q, "first": B, "second": A, "vote": "second", "meta": {"x": 1}}
    fields = {"prompt": "q", "chosen": "first", "rejected": "second", "better": "vote"}
    documents, _ = read(tmp_path, [row], map=fields)
    assert [contents[1] for _, contents, *_ in documents] == [A, B]
    with pytest.raises(UsageError, match=r"nothing stands at 'meta.y'(.|\n)*meta holds \{\"x\": 1\}"):
        read(tmp_path, [row], map=fields | {"system": "meta.y"})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("qestion", "question"),
        ("meta.qestion", "meta.question"),
        ("met.question", "meta.question"),
        ("log.0.flags.toxik", "log.flags.toxic"),
        ("log.flag.toxic", "log.flags.toxic"),
    ],
)
def test_a_path_with_a_typo_names_the_nearest_column_or_path(typed, meant, tmp_path):
    row = {"question": Q, "answer": A, "meta": {"question": Q}, "log": json.dumps({"flags": {"toxic": True}})}
    with pytest.raises(UsageError) as error:
        read(tmp_path, [row], map={"skip": typed})
    assert f"did you mean {meant!r}" in str(error.value.hint)


def test_of_two_answers_the_fuller_column_is_taken_and_said(tmp_path):
    _, shape = read(tmp_path, [{"problem": Q, "answer": "3", "solution": "There are three ducks."}])
    assert shape.columns["completion"] == "solution"
    assert shape.notes == ("completion is solution, and answer would fit too",)


@pytest.mark.parametrize("more", [{}, {"input": Q2}, {"answer": A}], ids=["same", "input", "answers"])
def test_prompts_that_all_say_the_same_are_named(more, tmp_path):
    rows = [{"question": "-", "answer": f"{A} {i}", **more} for i in range(12)]
    _, shape = read(tmp_path, rows)
    said = "question is '-' in each of the first 12 rows: does another column hold what is asked?"
    assert shape.notes == (() if more else (said,))


def test_columns_of_a_prompt_and_an_answer_are_read_as_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "row_to_document", lambda row, shape: pytest.fail(f"row by row: {row}"))
    rows = [{"system_prompt": S if i % 2 else "", "question": f"{Q} {i}", "response": A} for i in range(4)]
    for parquet in (False, True):
        documents, _ = read(tmp_path, rows, parquet)
        assert [roles[0] for roles, *_ in documents] == ["user", "system"] * 2
    chats = [{"system": S, "conversations": share(Q, A), "id": 1}]
    assert read(tmp_path, chats)[0][0][1] == [S, Q, A]


def test_a_system_message_that_is_there_already_appears_once(tmp_path):
    rows = [{"system": S, "messages": msgs(Q, A, system=S)}, {"system": C, "messages": msgs(Q, A, system=S)}]
    documents, _ = read(tmp_path, rows)
    assert [contents for _, contents, *_ in documents] == [[S, Q, A], [C, S, Q, A]]


def test_fields_of_messages_that_no_template_reads_are_left_out(tmp_path):
    row = {"messages": [{**message, "country": "X", "custom": 1} for message in msgs(Q, A)]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    [source] = open_sources((SourceConfig(path=str(path)),))
    shape = replace(
        detect_shape(source), readable=message_fields(ENVIRONMENT.parse("{{ messages[0].custom }}"))
    )
    document = row_to_document(row, shape)
    assert json.loads(document.extra) == {"messages": [{"custom": 1}] * 2}
    whole = ENVIRONMENT.parse("{% for message in messages %}{{ message | tojson }}{% endfor %}")
    assert message_fields(whole) is None


def node(name, parent, text, rank=None, **more):
    role = "prompter" if text.endswith("?") else "assistant"
    return {"message_id": name, "parent_id": parent, "text": text, "role": role, "rank": rank,
            "message_tree_id": "a", "deleted": False, **more}  # fmt: skip


TREE = [
    node("d", "b", "And geese?"),
    node("a", None, Q),
    node("c", "a", B, 1),
    node("b", "a", A, 0),
    node("e", "d", A2, 0),
    node("f", "d", "Gone.", 1, deleted=True),
]


def test_a_question_after_a_history_without_its_answer_is_refused_with_what_to_map(tmp_path):
    row = {"message": Q2, "chat_history": [{"role": "USER", "message": Q}, {"role": "CHATBOT", "message": A}]}
    with pytest.raises(UsageError, match="message follows chat_history, and no column") as error:
        read(tmp_path, [row])
    assert "--map messages=chat_history" in error.value.hint


def test_messages_of_other_keys_are_named_with_what_is_expected(tmp_path):
    row = {"messages": [{"id": 1, "nick": "user", "said": Q}, {"id": 2, "nick": "assistant", "said": A}]}
    with pytest.raises(UsageError) as error:
        read(tmp_path, [row, row])
    assert error.value.hint.startswith("messages holds objects of id, nick, said: a message says who speaks")


@pytest.mark.parametrize("parquet", [False, True], ids=["jsonl", "parquet"])
def test_trees_of_messages_are_refused_with_the_formats_that_join_them(parquet, tmp_path):
    with pytest.raises(UsageError) as error:
        read(tmp_path, TREE, parquet)
    assert "--format tree " in error.value.hint
    best, _ = read(tmp_path, TREE, parquet, format="tree")
    assert [contents for _, contents, *_ in best] == [[Q, A, "And geese?", A2]]
    every, _ = read(tmp_path, TREE, parquet, format="tree_paths")
    assert [(contents, extra) for _, contents, extra, _ in every] == [
        ([Q, A, "And geese?", A2], None),
        ([Q, B], None),
    ]


def test_an_answer_that_paths_share_is_trained_once_and_nested_trees_are_joined_too(tmp_path):
    more = [*TREE, node("g", "d", "None.", 2)]
    every, _ = read(tmp_path, more, format="tree_paths")
    assert [contents[-1] for _, contents, *_ in every] == [A2, "None.", B]
    assert json.loads(every[1][2])["messages"][1] == {"train": False}
    nested = {"message_tree_id": "a", "prompt": {**node("a", None, Q), "replies": [
        {**node("b", None, A, 0), "replies": []}, {**node("c", None, B, 1), "replies": []},
    ]}}  # fmt: skip
    with pytest.raises(UsageError, match="--format tree follows"):
        read(tmp_path, [nested])
    documents, _ = read(tmp_path, [nested], format="tree")
    assert [contents for _, contents, *_ in documents] == [[Q, A]]


def test_tools_that_the_system_message_holds_already_are_given_once_and_that_is_said(tmp_path):
    case = next(case for case in CASES if case.name == "Hermes function calling")
    documents, shape = read(tmp_path, [case.row])
    assert documents[0][2] is None
    assert shape.notes == ("system messages hold the tools already: tools is not given again",)
