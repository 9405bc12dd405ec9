"""Columns that the first rows do not fill: read where a later row has them, from every container."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_words import BARE, PAIR, TOOL, A, B, C, Q, R, S, msgs, turns
from normalizing import run, run_file

CHAT = {"messages": msgs(Q, A)}
TEXTS = {"prompt": Q, "completion": A}
PAIRED = {"prompt": Q, "chosen": A, "rejected": B}


def read_last(folder, first, last, parquet):
    """(roles and contents, extra, drop reason) of the documents of the last row, and why it was set aside."""
    rows = [first] * 120 + [last]
    if parquet:
        keys = dict.fromkeys(key for row in rows for key in row)
        table = pa.Table.from_pylist([{key: row.get(key) for key in keys} for row in rows])
        pq.write_table(table, folder / "rows.parquet")
        documents, quarantined, _ = run_file(folder / "rows.parquet")
    else:
        documents, quarantined, _ = run(folder, rows)
    found = (
        documents.filter(documents["row"] == 121).select("roles", "contents", "extra", "drop_reason").rows()
    )
    read = [
        (list(zip(roles, contents, strict=True)), json.loads(extra or "{}"), reason)
        for roles, contents, extra, reason in found
    ]
    return read, [entry.reason for entry in quarantined]


@pytest.fixture(params=[False, True], ids=["jsonl", "parquet"])
def parquet(request):
    return request.param


@pytest.mark.parametrize("key", ["label", "kto_tag", "desirable", "train", "loss"])
@pytest.mark.parametrize("first", [CHAT, TEXTS], ids=["messages", "texts"])
def test_a_late_row_that_is_called_bad_is_not_taught(first, key, parquet, tmp_path):
    [(_, _, reason)], _ = read_last(tmp_path, first, {**first, key: False}, parquet)
    assert reason == "labelled_bad"


def test_a_late_weight_counts(parquet, tmp_path):
    [(_, extra, reason)], _ = read_last(tmp_path, CHAT, {**CHAT, "weight": 0.5}, parquet)
    assert (extra["messages"][1], reason) == ({"weight": 0.5}, None)
    _, [reason] = read_last(tmp_path, PAIRED, {**PAIRED, "weight": 0.5}, parquet)
    assert reason == "its weight is 0.5, and preference pairs all weigh the same"


@pytest.mark.parametrize("key", ["reasoning", "thinking", "cot"])
def test_late_reasoning_reaches_the_answer_but_a_switch_does_not(key, parquet, tmp_path):
    [(_, extra, _)], _ = read_last(tmp_path, CHAT, {**CHAT, key: R}, parquet)
    assert extra["messages"][1] == {"reasoning_content": R}
    [(_, extra, _)], _ = read_last(tmp_path, CHAT, {**CHAT, key: "on"}, parquet)
    assert extra == {}


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [TOOL]},
        {"functions": [BARE]},
        {"available_tools": json.dumps([TOOL])},
        {"metadata": {"tools": [TOOL]}},
        {"metadata": json.dumps({"tools": [TOOL]})},
    ],
    ids=str,
)
def test_late_tools_reach_the_template(more, parquet, tmp_path):
    [(_, extra, _)], _ = read_last(tmp_path, CHAT, {**CHAT, **more}, parquet)
    assert extra["tools"] == [TOOL]


def test_metadata_without_tools_in_the_first_rows_are_read_where_they_have_some(parquet, tmp_path):
    first, last = ({**CHAT, "metadata": json.dumps(held)} for held in ({"n": 1}, {"tools": [TOOL]}))
    [(_, extra, _)], _ = read_last(tmp_path, first, last, parquet)
    assert extra["tools"] == [TOOL]


def test_late_system_messages_and_inputs_are_read(parquet, tmp_path):
    [(document, _, _)], _ = read_last(tmp_path, CHAT, {**CHAT, "system_prompt": S}, parquet)
    assert document == turns(Q, A, system=S)
    for key in ("input", "context"):
        [(document, _, _)], _ = read_last(tmp_path, TEXTS, {**TEXTS, key: C}, parquet)
        assert document == turns(f"{Q}\n{C}", A)


@pytest.mark.parametrize("key", ["image", "images", "Audio", "videos"])
@pytest.mark.parametrize("first", [CHAT, TEXTS, PAIRED], ids=["messages", "texts", "pairs"])
def test_rows_with_an_image_or_a_sound_beside_them_are_set_aside(first, key, parquet, tmp_path):
    read, [reason] = read_last(tmp_path, {**first, key: []}, {**first, key: ["duck.png"]}, parquet)
    assert read == []
    assert reason.startswith(f"{key} holds what is no text")


def test_columns_that_the_first_rows_fill_with_something_else_stay_unread(parquet, tmp_path):
    [(_, extra, reason)], _ = read_last(tmp_path, {**CHAT, "label": 3}, {**CHAT, "label": 0}, parquet)
    assert (extra, reason) == ({}, None)


def test_pairs_without_late_columns_are_as_before(parquet, tmp_path):
    read, _ = read_last(tmp_path, PAIRED, PAIRED, parquet)
    assert [document for document, _, _ in read] == PAIR


@pytest.mark.parametrize(
    "empty", [[None], {"bytes": None, "path": None}, [{"path": None}], False, "", 0], ids=str
)
def test_a_place_for_an_image_that_holds_none_is_no_image(empty, tmp_path):
    read, reasons = read_last(tmp_path, CHAT, {**CHAT, "image": empty}, False)
    assert ([document for document, _, _ in read], reasons) == ([turns(Q, A)], [])


def test_of_several_images_the_first_by_name_is_told_and_none_is_called_unread(tmp_path):
    row = {**CHAT, "video": "c.mp4", "image_path": "b.png", "audio": "a.wav"}
    _, [entry], shape = run(tmp_path, [row])
    assert entry.reason.startswith("audio holds")
    assert dict(shape.unread) == {}
