"""Rows that a column marks as toxic, refused or a canary: counted, and left out where that is asked for."""

from __future__ import annotations

import logging

import pytest
from rows_read import CONTAINERS, documents, written
from test_passed_over import FORMATS

import tokpack
from tokpack.stages.normalize.layouts.flags import is_marked

MARKS = {
    "toxic": [True, False, None],
    "is_refusal": [1, 0, None],
    "flagged": ["yes", "no", None],
    "canary": ["GUID 26b5c67b", "", None],
    "openai_moderation": [[{"flagged": False}, {"flagged": True}], [{"flagged": False}], None],
}


PAIRS = [
    pytest.param(
        name, column, CONTAINERS[(i + 2 * j) % len(CONTAINERS)], marks=[pytest.mark.slow] * ((i + j) % 5 > 0)
    )
    for i, name in enumerate(FORMATS)
    for j, column in enumerate(MARKS)
]
"""Every format with every column, and each of both in every container; without the slow tests each once."""


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "tokpack")
    return lambda: [record.getMessage().partition(": ")[2] for record in caplog.records]


@pytest.mark.parametrize(("name", "column", "container"), PAIRS)
def test_marked_rows_are_counted_and_left_out_where_that_is_asked_for(
    name, column, container, qwen, said, tmp_path
):
    rows = [{**FORMATS[name], column: mark} for mark in MARKS[column]]
    tokpack.analyze(written(tmp_path, rows, container), tokenizer=str(qwen))
    told = [text for text in said() if "packed as well" in text]
    assert told == [f"1 row is marked by {column} and packed as well: --map skip={column} leaves them out"]
    assert not any("may matter" in text and column in text for text in said())
    (tmp_path / "again").mkdir()
    found, aside, _ = documents(tmp_path / "again", rows, container, map={"skip": column})
    wide = 2 if name == "pairs" else 1
    assert [row[3] for row in found] == ["labelled_bad"] * wide + [None] * 2 * wide
    assert aside == []


@pytest.mark.parametrize("column", ["toxic", "openai_moderation"])
def test_rows_that_are_read_one_by_one_are_counted_too(column, qwen, said, tmp_path):
    rows = [{**FORMATS["texts"], column: mark} for mark in MARKS[column]]
    path = written(tmp_path, rows, "jsonl")
    path.write_text('\ufeff{"broken\n' + path.read_text(), encoding="utf-8")
    tokpack.analyze(path, tokenizer=str(qwen), allow_bad=0.5)
    assert any(f"1 row is marked by {column}" in text for text in said())


def test_nothing_is_said_of_marks_that_mark_nothing_or_are_none(qwen, said, tmp_path):
    rows = [{**FORMATS["texts"], "toxic": False, "redacted": "by hand"}]
    tokpack.analyze(written(tmp_path, rows, "jsonl"), tokenizer=str(qwen))
    assert not any("marked" in text for text in said())


def test_a_mark_below_a_column_leaves_rows_out(tmp_path):
    rows = [{**FORMATS["texts"], "meta": {"nsfw": mark}} for mark in (True, False)]
    found, _, _ = documents(tmp_path, rows, map={"skip": "meta.nsfw"})
    assert [row[3] for row in found] == ["labelled_bad", None]


def test_what_marks():
    assert [is_marked("toxic", mark) for mark in (True, "true", 1.0, "0", 0, "", None, 0.4)] == [
        *(True, True, True),
        *([False] * 5),
    ]
    assert is_marked("meta.canary", "GUID")
    assert not is_marked("meta.canary", None)
