"""Columns that begin after the first rows are named, and rows to test with are counted or left out."""

from __future__ import annotations

import json
import logging

import pytest
from layout_words import TOOL
from rows_read import CONTAINERS, documents, written

import tokpack
from tokpack.stages.normalize.passed_over import is_held_back

TEXTS = {"prompt": "How many ducks?", "completion": "Three ducks swim."}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
BARE = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}
PAIR = {"prompt": "Hi", "chosen": "Hello.", "rejected": "Go."}
FORMATS = {"texts": TEXTS, "messages": CHAT, "sharegpt": BARE, "pairs": PAIR, "text": {"text": "Once upon."}}

PLACES = [
    pytest.param(name, container, marks=[pytest.mark.slow] * ((i + j) % 3 > 0))
    for i, name in enumerate(FORMATS)
    for j, container in enumerate(CONTAINERS)
]
"""Every format in every container; without the slow tests each once."""


def joined(first, last, count=150):
    """Rows of which only the last has more."""
    return [*({**first} for _ in range(count)), {**first, **last}]


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "tokpack")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records]


def test_half_a_character_in_a_late_column_ends_no_run(qwen, tmp_path):
    lines = [json.dumps(row) for row in joined(TEXTS, {"\ud800tags": "a\udc00"})]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f"{line}\n" for line in lines))
    report = tokpack.analyze(data, tokenizer=str(qwen))
    assert report.data["inputs"][0]["unread"] == {"\\ud800tags": "a\\udc00"}


@pytest.mark.parametrize(("name", "container"), PLACES)
def test_a_column_that_begins_late_is_named_with_an_example(name, container, qwen, said, tmp_path):
    rows = joined(FORMATS[name], {"tags": ["pond", "duck"], "safety_score": 0.5})
    report = tokpack.analyze(written(tmp_path, rows, container), tokenizer=str(qwen))
    lines = said()
    assert [text.partition(": ")[2] for level, text in lines if level == "INFO" and "later" in text] == [
        """not read, in later rows: tags '["pond", "duck"]'"""
    ]
    assert any(level == "WARNING" and "may matter: safety_score '0.5'" in text for level, text in lines)
    unread = report.data["inputs"][0]["unread"]
    assert unread == {"tags": '["pond", "duck"]', "safety_score": "0.5"}


def longer(first, more):
    """The row, of whose last message there is more."""
    column = next(name for name in first if isinstance(first[name], list))
    return {column: [*first[column][:-1], {**first[column][-1], **more}]}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ["messages", "sharegpt", "text"])
def test_a_field_of_messages_that_begins_late_is_named(name, container, qwen, said, tmp_path):
    more = {"mood": "calm", "inner_monologue": "Hm.", "name": "Bot", "none": None}
    first = CHAT if name == "text" else FORMATS[name]
    rows = joined(first, longer(first, more))
    if name == "text":
        rows = [{"messages": json.dumps(row["messages"])} for row in rows]
    report = tokpack.analyze(written(tmp_path, rows, container), tokenizer=str(qwen))
    column = next(iter(rows[0]))
    assert report.data["inputs"][0]["unread"] == {
        f"{column}.mood": "calm",
        f"{column}.inner_monologue": "Hm.",
    }
    lines = [(level, text) for level, text in said() if "later rows" in text]
    assert any(level == "INFO" and f"{column}.mood 'calm'" in text for level, text in lines)
    assert any(level == "WARNING" and f"{column}.inner_monologue 'Hm.'" in text for level, text in lines)


OF_LIBRARIES = [
    [{"type": "human", "content": "Hi"}, {"type": "ai", "content": "Hello."}],
    [
        {"role": "system", "text": None, "system_prompt": "Be brief."},
        {"role": "user", "text": "Hi", "system_prompt": None},
        {"role": "ai", "text": "Hello.", "system_prompt": None},
    ],
    [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello."}]}],
    [{"is_human": True, "mes": "Hi"}, {"is_human": False, "mes": "Hello."}],
]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("chat", OF_LIBRARIES, ids=lambda chat: "-".join(chat[0]))
def test_fields_that_are_read_under_another_name_are_not_named(chat, container, late, qwen, tmp_path):
    rows = [{"messages": chat}] * 3
    if late:
        rows = [*[CHAT] * 120, {"messages": [*chat[:-1], {**chat[-1], "mood": "calm"}]}]
    report = tokpack.analyze(written(tmp_path, rows, container), tokenizer=str(qwen), allow_bad=1.0)
    unread = report.data["inputs"][0]["unread"]
    assert unread == ({"messages.mood": "calm"} if late else {})


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ["messages", "sharegpt", "text"])
@pytest.mark.parametrize("answer", [True, False])
def test_late_tools_are_named_in_messages_of_the_assistant_alone(answer, name, container, qwen, tmp_path):
    """Those of the user are the tools of the row."""
    chat = CHAT if name == "text" else FORMATS[name]
    [(column, [asked, answered])] = chat.items()
    asks = {**asked, "tools": [TOOL]}
    rows = [chat] * 140 + [{column: [asks, answered]}] * 9
    rows.append({column: [asks, {**answered, "tools": [TOOL]} if answer else answered]})
    if name == "text":
        rows = [{column: json.dumps(row[column])} for row in rows]
    report = tokpack.analyze(written(tmp_path, rows, container), tokenizer=str(qwen))
    assert set(report.data["inputs"][0]["unread"]) == ({f"{column}.tools"} if answer else set())


def test_rows_that_are_read_one_by_one_are_looked_at_too(qwen, said, tmp_path):
    path = written(tmp_path, joined(TEXTS, {"tags": "pond"}), "jsonl")
    path.write_text('\ufeff{"broken\n' + path.read_text(), encoding="utf-8")
    tokpack.analyze(path, tokenizer=str(qwen))
    assert any("not read, in later rows: tags 'pond'" in text for _, text in said())


@pytest.mark.parametrize(
    "more", [{"system": "Be brief."}, {"weight": 1}, {"id": None}, {"note": ""}], ids=str
)
def test_columns_that_are_read_or_empty_are_not_named(more, qwen, said, tmp_path):
    tokpack.analyze(written(tmp_path, joined(TEXTS, more), "jsonl"), tokenizer=str(qwen))
    assert not any("later rows" in text for _, text in said())


def test_a_column_of_many_small_files_is_named_once(qwen, said, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jsonl").write_text(
            "".join(
                json.dumps({**row, "prompt": f"{number} {i}"}) + "\n"
                for i, row in enumerate(joined(TEXTS, {"tags": "a"}))
            )
        )
    tokpack.analyze(tmp_path, tokenizer=str(qwen))
    assert sum("not read, in later rows: tags 'a'" in text for _, text in said()) == 1


@pytest.mark.parametrize(("name", "container"), PLACES)
def test_rows_of_other_splits_are_counted_and_left_out_where_that_is_asked_for(
    name, container, qwen, said, tmp_path
):
    splits = ["train", "test", None, "validation", "train_sft", "test_sft", "web"]
    rows = [{**FORMATS[name], "split": split} for split in splits]
    tokpack.analyze(written(tmp_path, rows, container), tokenizer=str(qwen))
    assert (
        "WARNING",
        "3 rows are test or validation by split and packed as well: --map split=split leaves them out",
    ) in [(level, text.partition(": ")[2]) for level, text in said()]
    (tmp_path / "again").mkdir()
    found, aside, _ = documents(tmp_path / "again", rows, container, map={"split": "split"})
    wide = 2 if name == "pairs" else 1
    reasons = [None, "other_split", None, "other_split", None, "other_split", None]
    assert [row[3] for row in found] == [reason for reason in reasons for _ in range(wide)]
    assert aside == []


def test_a_split_below_a_column_is_read_too(tmp_path):
    rows = [{**TEXTS, "meta": {"split": split}} for split in ("train", "dev")]
    found, _, _ = documents(tmp_path, rows, map={"split": "meta.split"})
    assert [row[3] for row in found] == [None, "other_split"]


@pytest.mark.parametrize(
    "split", ["test", "Test", "TESTING", "val", "validation_2", "dev", "eval", "held-out", "test_sft"]
)
def test_what_is_held_back(split):
    assert is_held_back(split)


@pytest.mark.parametrize(
    "split", ["train", "web", "valuable", "development", "tested", "", None, 1, "train_test"]
)
def test_what_is_not(split):
    assert not is_held_back(split)
