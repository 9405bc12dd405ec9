"""Rows that cannot be read: set aside with their place, and no other row with them."""

from __future__ import annotations

import pytest
from normalizing import run, run_file

from tokpack.errors import DataError


def test_broken_lines_are_quarantined_verbatim_with_their_place(tmp_path):
    good = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    rows = [good, b'{"messages": [', good, b'"text"', b"[1]", b'{"messages": "\xff"}', good, {"messages": 3}]
    documents, quarantined, _ = run(tmp_path, rows)
    assert documents["doc_id"].to_list() == [0, 2, 6]
    assert [q.doc_id for q in quarantined] == [1, 3, 4, 5, 7]
    whole = (tmp_path / "rows.jsonl").read_bytes()
    for q in quarantined:
        assert whole[q.byte_offset :].split(b"\n")[0] == q.raw
        assert whole.split(b"\n")[q.row - 1] == q.raw
    reasons = [q.reason for q in quarantined]
    assert reasons[0].startswith("not JSON")
    assert "string" in reasons[1]
    assert "array" in reasons[2]
    assert "not UTF-8" in reasons[3]
    assert "messages is a number" in reasons[4]
    assert "line_base64" in quarantined[3].record()


def test_half_a_surrogate_pair_is_quarantined(tmp_path):
    good = {"messages": [{"role": "user", "content": "hi"}]}
    documents, quarantined, _ = run(
        tmp_path, [good, b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', good]
    )
    assert documents["doc_id"].to_list() == [0, 2]
    assert "surrogate" in quarantined[0].reason


def test_lines_of_text_are_documents_unless_blank_or_not_utf8(tmp_path):
    body = "one\r\n\n \t\n\u3000\ntwo\u2028still two\n".encode() + b"caf\xe9\n" + b"\x00three"
    for bad in (False, True):
        (tmp_path / "a.txt").write_bytes(body if bad else body.replace(b"\xe9", b"e"))
        documents, quarantined, _ = run_file(tmp_path / "a.txt")
        texts = ["one", "\u3000", "two\u2028still two", *([] if bad else ["cafe"]), "\0three"]
        assert [text for (text,) in documents["contents"].to_list()] == texts
        assert documents["row"].to_list() == [1, 4, 5, *([] if bad else [6]), 7]
        assert [(q.row, q.reason) for q in quarantined] == [(6, "not UTF-8: byte 0xe9 at column 4")] * bad


@pytest.mark.parametrize("depth", [450, 5_000, 100_000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_a_row_nested_too_deeply_costs_no_other_row(tmp_path, depth, pair):
    good = {"messages": [{"role": "user", "content": "hi"}], "tools": []}
    opening, closing = (pair[0] * depth, pair[1] * depth) if pair == "[]" else ('{"a":' * depth, "}" * depth)
    deep = (
        f'{{"messages": [{{"role": "user", "content": "x"}}], "x": {opening}{"1" * (pair == "{}")}{closing}}}'
    )
    documents, quarantined, _ = run(tmp_path, [deep.encode(), good, deep.encode(), good])
    assert {1, 3} <= set(documents["doc_id"])
    assert len(documents) + len(quarantined) == 4
    assert {q.reason for q in quarantined} <= {"nested too deeply"}


def test_an_empty_file_and_a_file_of_something_else_say_so(tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        run_file(tmp_path / "empty.jsonl")
    (tmp_path / "noise.jsonl").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(DataError, match="no jsonl row"):
        run_file(tmp_path / "noise.jsonl")
