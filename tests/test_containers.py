"""What a file holds, by its name and by its content."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_files import CHATS, CONTENTS, LINES, look, texts_of

import tokpack
from tokpack.errors import DataError, UsageError

# Text that is none


@pytest.mark.parametrize("name", ["chats.txt", "chats.text", "chats", "chats.data", "chats.txt.gz", "a.gz"])
def test_json_lines_are_read_as_such_whatever_their_name(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(LINES) if name.endswith(".gz") else b"\n" + LINES)
    source, format = look(tmp_path / name)
    assert (source.container, format) == ("jsonl", "messages")
    assert texts_of(tmp_path / name) == CONTENTS
    assert bool(source.note) == (".t" in name)  # where the name said text


def test_a_few_broken_lines_do_not_make_text_of_json_lines(tmp_path):
    (tmp_path / "chats.txt").write_bytes(LINES + b'{"messages": [\n')
    assert look(tmp_path / "chats.txt")[0].container == "jsonl"


def test_json_lines_named_text_are_packed_as_text_when_asked(tmp_path):
    (tmp_path / "chats.txt").write_bytes(LINES)
    source, format = look(tmp_path / "chats.txt", format="text")
    assert (source.container, format) == ("text", "text")
    assert texts_of(tmp_path / "chats.txt", format="text") == [[line] for line in LINES.decode().splitlines()]
    assert "as plain text, as asked" in source.note


def test_text_stays_text(tmp_path):
    for number, text in enumerate(("{ braces } here\nand there\n", "[1] a source\n[2] another\n", "a\n")):
        (tmp_path / f"{number}.txt").write_text(text)
        source, _ = look(tmp_path / f"{number}.txt")
        assert (source.container, source.note) == ("text", "")


def test_a_format_with_columns_makes_json_lines_of_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_text("no JSON\n")
    with pytest.raises(DataError, match="no jsonl row in the first lines, the first is not JSON"):
        look(tmp_path / "a.txt", format="messages")


def test_json_objects_of_no_known_format_in_a_text_file_name_the_way_to_text(tmp_path):
    (tmp_path / "log.txt").write_text('{"level": "info"}\n' * 3)
    with pytest.raises(UsageError, match="cannot recognize") as error:
        look(tmp_path / "log.txt")
    assert "--format text" in error.value.hint


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_objects_is_read_as_json_whatever_its_name(tmp_path, name, indent):
    (tmp_path / name).write_text(json.dumps(CHATS, indent=indent))
    assert texts_of(tmp_path / name) == CONTENTS


def test_an_array_a_line_is_not_taken_for_one_array(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"[{}]\n" + LINES)
    assert look(tmp_path / "a.jsonl")[0].container == "jsonl"


def test_a_long_row_is_recognized_whole(tmp_path):
    row = {"text": "x" * 300_000}
    (tmp_path / "a.txt").write_text(json.dumps(row) + "\n" + json.dumps(row))
    assert look(tmp_path / "a.txt")[0].container == "jsonl"


def test_tables_without_an_ending_are_recognized(tmp_path):
    table = pa.Table.from_pylist(CHATS)
    pq.write_table(table, tmp_path / "parquet")
    with pa.OSFile(str(tmp_path / "arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("parquet", "arrow"):
        assert texts_of(tmp_path / name) == CONTENTS


def test_a_name_and_a_content_that_say_nothing_are_an_error_but_text_when_asked(tmp_path):
    (tmp_path / "README.md").write_text("# one\n\ntwo\n")
    with pytest.raises(UsageError, match="cannot tell the file type") as error:
        look(tmp_path / "README.md")
    assert "--format text" in error.value.hint
    assert texts_of(tmp_path / "README.md", format="text") == [["# one"], ["two"]]


@pytest.mark.parametrize("body", [LINES, json.dumps(CHATS).encode()])
def test_standard_input_is_recognized_by_its_content(monkeypatch, body):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(body)))
    assert texts_of("-") == CONTENTS


def test_a_container_that_is_given_is_taken(tmp_path):
    (tmp_path / "chats.data").write_bytes(LINES)
    source, format = look(tmp_path / "chats.data", container="text")
    assert (source.container, format) == ("text", "text")


def zipped(data: bytes) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jsonl", data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "body", "what"),
    [
        ("a.jsonl", gzip.compress(LINES), "is gzip data, not JSON lines"),
        ("a.jsonl.gz", gzip.compress(gzip.compress(LINES)), "holds gzip data, not JSON lines"),
        ("a.jsonl.bz2", bz2.compress(LINES), "is bzip2 data"),
        ("a.csv", zipped(LINES), "is a zip archive or an Excel workbook, not CSV"),
        ("a.zip", zipped(LINES), "is a zip archive"),
        ("a.txt", "hello\n".encode("utf-16"), "is text in UTF-16, not plain text"),
        ("a.csv", "q,a\n".encode("utf-16"), "is text in UTF-16, not CSV"),
        ("a.jsonl", LINES.decode().encode("utf-16-le"), "is text in UTF-16"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("a.json", b"<!DOCTYPE html>\n<html>", "is a web page, not JSON"),
        ("a.jsonl", b"PAR1....", "is Parquet, not JSON lines"),
        ("a.jsonl.gz", LINES, "is not compressed by gzip"),
        ("a.jsonl.gz", pa.compress(LINES, "zstd", asbytes=True), "is not compressed by gzip"),
        ("a.jsonl.zst", gzip.compress(LINES), "is not compressed by Zstandard"),
    ],
)
def test_content_that_the_name_denies_is_named_with_a_way_out(tmp_path, name, body, what):
    (tmp_path / name).write_bytes(body)
    with pytest.raises(DataError, match=what) as error:
        look(tmp_path / name)
    assert error.value.where == str(tmp_path / name)
    assert error.value.hint


def test_what_was_recognized_against_a_name_is_told_once(tmp_path, qwen, caplog):
    for number in range(6):
        (tmp_path / f"{number}.txt").write_bytes(LINES)
    with caplog.at_level(logging.WARNING, "tokpack"):
        tokpack.pack(tmp_path, tmp_path / "out", tokenizer=str(qwen))
    told = [record.message for record in caplog.records if "read as such" in record.message]
    assert [message.split()[0] for message in told] == ["0.txt", "1.txt", "2.txt"]
    assert "and 3 inputs more like these" in caplog.messages


def test_evaluation_text_in_json_lines_named_text_is_read_as_rows(tmp_path, qwen, caplog):
    question = "Which of the planets that orbit the sun has the largest number of known moons today, and why?"
    (tmp_path / "eval.txt").write_text(json.dumps({"question": question, "answer": "Saturn"}) + "\n")
    rows = [json.dumps({"text": f"{number} {question}"}) for number in range(2)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, '{"text": "Something else."}']))
    report = tokpack.analyze(
        tmp_path / "rows.jsonl", tokenizer=str(qwen), against=[str(tmp_path / "eval.txt")]
    )
    assert report.data["ledger"]["documents"]["dropped"] == {"contaminated": 2}
    assert any("eval.txt holds JSON lines" in message for message in caplog.messages)


# Rows


def test_chats_without_a_message_do_not_hide_those_with_one(tmp_path):
    rows = [{"messages": []}, {"messages": []}, *CHATS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert texts_of(tmp_path / "a.jsonl") == [[], [], *CONTENTS]


def test_chats_that_all_have_no_message_are_documents_but_not_before_another_format(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"messages": []}\n')
    assert look(tmp_path / "a.jsonl")[1] == "messages"
    (tmp_path / "b.jsonl").write_text('{"messages": [], "text": "t"}\n')
    assert look(tmp_path / "b.jsonl")[1] == "text"


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_messages_written_as_a_json_string_are_messages(tmp_path, ending):
    rows = [{"messages": json.dumps(row["messages"])} for row in CHATS]
    path = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        import pyarrow.csv as pacsv

        pacsv.write_csv(pa.Table.from_pylist(rows), path)
    assert texts_of(path) == CONTENTS


@pytest.mark.parametrize("kind", ["file", "stream", "parquet"])
def test_tables_that_polars_writes_are_read(tmp_path, kind):
    """Its Arrow files hold texts as views, also inside lists of messages."""
    import polars as pl

    frame = pl.DataFrame(CHATS)
    frame = pl.concat([frame[:7], frame[7:]], rechunk=False)
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    write = {"file": frame.write_ipc, "stream": frame.write_ipc_stream, "parquet": frame.write_parquet}[kind]
    write(path)
    assert texts_of(path) == CONTENTS
    empty = tmp_path / "empty.arrow"
    frame.clear().write_ipc(empty)
    with pytest.raises(DataError, match="no arrow row"):
        look(empty)


def test_rows_that_are_empty_objects_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n{}\n")
    with pytest.raises(UsageError, match="they have no columns"):
        look(tmp_path / "a.jsonl")


def test_a_head_without_a_readable_row_says_what_is_wrong_with_the_first(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"q,a\nd\xe9j\xe0,vu\n")
    with pytest.raises(DataError, match="the first is not UTF-8: byte 0xe9") as error:
        look(tmp_path / "a.csv")
    assert "iconv" in error.value.hint
    (tmp_path / "a.jsonl").write_text(",\n".join(map(json.dumps, CHATS)) + ",\n")
    with pytest.raises(DataError, match="the first is not JSON: Extra data"):
        look(tmp_path / "a.jsonl")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_csv_with_another_separator_is_named(tmp_path, mark):
    (tmp_path / "a.csv").write_text(f"prompt{mark}completion\nq{mark}a\n")
    with pytest.raises(UsageError, match="cannot recognize") as error:
        look(tmp_path / "a.csv")
    assert repr(mark) in error.value.hint
