"""Files whose rows stand inside one another or in pieces are refused with what writes them one a line."""

from __future__ import annotations

import json

import pytest
from layout_words import A2, Q2, A, Q, msgs
from normalizing import run, run_file

from tokpack.errors import DataError, UsageError

ROWS = [{"prompt": Q, "completion": A}, {"prompt": Q2, "completion": A2}]


def refused(folder, text, name="rows.json"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises((UsageError, DataError)) as error:
        run_file(path)
    return error.value.hint


@pytest.mark.parametrize(
    ("held", "hint"),
    [
        ({"data": ROWS}, "data holds 2 rows: jq -c '.\"data\"[]' FILE > rows.jsonl writes one a line"),
        ({"version": 1, "train": ROWS}, "train holds 2 rows"),
        (dict(zip("ab", ROWS, strict=True)), "each key holds a row: jq -c '.[]' FILE"),
        ({key: [row[key] for row in ROWS] for key in ROWS[0]}, "pandas.read_json(FILE).to_json("),
        ({k: {str(i): row[k] for i, row in enumerate(ROWS)} for k in ROWS[0]}, "pandas.read_json(FILE)"),
    ],
    ids=["wrapped", "wrapped beside others", "by key", "columns", "columns of pandas"],
)
def test_rows_inside_one_object_are_not_taken_for_one_row(held, hint, tmp_path):
    assert hint in refused(tmp_path, json.dumps(held))


@pytest.mark.parametrize("content", ["content", "text"])
def test_rows_of_one_message_each_are_no_texts(content, tmp_path):
    lines = "".join(
        json.dumps({"id": 1, "role": m["role"], content: m["content"]}) + "\n" for m in msgs(Q, A)
    )
    assert "write the messages of a conversation into one row" in refused(tmp_path, lines, "rows.jsonl")
    assert "group_by(.conv_id)" in refused(tmp_path, lines.replace('"id"', '"conv_id"'), "rows.jsonl")


def test_lines_that_are_lists_of_messages_are_told_what_to_write(tmp_path):
    lines = 2 * (json.dumps(msgs(Q, A)) + "\n")
    assert '{"messages": [...]}' in refused(tmp_path, lines, "rows.jsonl")


def test_objects_over_several_lines_are_told_what_writes_them_in_one(tmp_path):
    assert "jq -c ." in refused(tmp_path, json.dumps(ROWS[0], indent=1), "rows.jsonl")


def test_a_csv_file_without_a_header_is_told_so(tmp_path):
    assert "the first line names the columns" in refused(tmp_path, f"{Q},{A}\n{Q2},{A2}\n", "rows.csv")


@pytest.mark.parametrize("held", [[A], {"text": A}], ids=str)
def test_an_answer_in_a_list_or_an_object_is_read_by_a_path(held, tmp_path):
    hint = refused(tmp_path, json.dumps({"prompt": Q, "completion": held}) + "\n", "rows.jsonl")
    path = "completion.0" if isinstance(held, list) else "completion.text"
    assert f"--map prompt=prompt,completion={path}" in hint
    found, _, _ = run(tmp_path, [{"prompt": Q, "completion": held}], map={"completion": path})
    assert found["contents"].to_list() == [[Q, A]]


def test_thoughts_of_others_than_the_assistant_are_not_left_out_without_a_word(tmp_path):
    draft = {"type": "thinking", "thinking": [{"type": "text", "text": "Draft first."}]}
    system = {"role": "system", "content": [{"type": "text", "text": "Think."}, draft]}
    _, [entry], _ = run(tmp_path, [{"messages": [system, *msgs(Q, A)]}])
    assert "content part of type 'thinking'" in entry.reason


def test_segments_with_labels_are_told_what_to_write(tmp_path):
    parts = [{"label": False, "text": Q}, {"label": True, "text": A}]
    assert "rows of input_ids" in refused(tmp_path, json.dumps({"segments": parts}) + "\n", "rows.jsonl")


def test_columns_that_tell_of_a_row_are_not_proposed(tmp_path):
    row = {"role_1": "Developer", "topic": "Ducks", "sub_topic": "Ponds", "message_1": Q, "message_2": A}
    hint = refused(tmp_path, json.dumps(row) + "\n", "rows.jsonl")
    assert "--map prompt=message_1,completion=message_2" in hint
