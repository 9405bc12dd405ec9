"""Reading: blocks, places, containers, damaged files."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokpack.errors import DataError, UsageError
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.read import tables
from tokpack.stages.read.blocks import line_numbers, read_blocks
from tokpack.stages.read.csv_rows import csv_batches
from tokpack.stages.read.faults import UNREADABLE, readable_rows
from tokpack.stages.read.sources import open_sources


def blocks_of(path: Path, block_bytes: int = 32 << 20):
    sources = open_sources((SourceConfig(path=str(path)),))
    return sources, list(read_blocks(sources, block_bytes))


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([b"{}", b'{"a": 1}', b"", b"  ", b"x" * 40]), max_size=40),
    st.integers(8, 200),
    st.booleans(),
)
def test_blocks_hold_every_line_once_and_know_its_number(
    tmp_path_factory, lines, block_bytes, ends_with_newline
):
    path = tmp_path_factory.mktemp("read") / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + (b"\n" if ends_with_newline else b""))
    _, blocks = blocks_of(path, block_bytes)
    whole = path.read_bytes()
    expected = [(number, line) for number, line in enumerate(whole.split(b"\n"), 1) if line.strip()]
    found = []
    for block in blocks:
        assert whole[block.byte_offset : block.byte_offset + len(block.data)] == block.data
        filled = [line for line in block.data.split(b"\n") if line.strip()]
        assert len(filled) == block.rows
        assert block.first_doc_id == len(found)
        found += list(zip(line_numbers(block).tolist(), filled, strict=True))
    assert found == expected


def test_compressed_files_read_the_same_and_their_hash_is_that_of_the_file(tmp_path):
    body = b"".join(json.dumps({"text": f"row {i}"}).encode() + b"\n" for i in range(2000))
    (tmp_path / "a.jsonl").write_bytes(body)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(body[:5000]) + gzip.compress(body[5000:]))
    (tmp_path / "a.jsonl.zst").write_bytes(bytes(pa.compress(body, "zstd", asbytes=True)))
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
        sources, blocks = blocks_of(tmp_path / name, 10_000)
        assert b"".join(block.data for block in blocks) == body
        assert sources[0].sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_cut_off_compressed_file_is_an_error_not_a_shorter_file(tmp_path, ending):
    body = b'{"text": "x"}\n' * 50_000
    packed = gzip.compress(body) if ending == ".gz" else pa.compress(body, "zstd", asbytes=True)
    path = tmp_path / f"cut.jsonl{ending}"
    path.write_bytes(packed[:-9])
    with pytest.raises(DataError, match="cannot read"):
        blocks_of(path)


def test_arrays_tables_and_lines_give_the_same_rows(tmp_path):
    rows = [{"text": f"row {i}"} for i in range(100)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2))
    (tmp_path / "lines.json").write_text("\n".join(json.dumps(row) for row in rows))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    for name in ("a.json", "lines.json", "a.parquet", "a.arrow"):
        _, blocks = blocks_of(tmp_path / name)
        found = []
        for block in blocks:
            lines = block.data.split(b"\n") if isinstance(block.data, bytes) else []
            found += [json.loads(line) for line in lines if line] or block.data.to_pylist()
        assert found == rows, name


def test_a_saved_dataset_folder_is_an_input(tmp_path):
    datasets = pytest.importorskip("datasets")

    datasets.disable_progress_bars()
    datasets.Dataset.from_list([{"text": f"row {i}"} for i in range(50)]).save_to_disk(
        tmp_path / "saved", num_shards=2
    )
    sources, blocks = blocks_of(tmp_path / "saved")
    assert [row["text"] for block in blocks for row in block.data.to_pylist()] == [
        f"row {i}" for i in range(50)
    ]
    assert sources[0].sha256


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n')
    _, blocks = blocks_of(tmp_path / "bom.jsonl")
    assert blocks[0].data == b'{"text": "a"}\n'
    assert blocks[0].byte_offset == 3


def test_csv_rows_that_do_not_fit_keep_their_place(tmp_path):
    good = [f'q{i},"a\n{i}"' for i in range(400)]
    lines = [row.encode() for row in good]
    lines[3:3] = [b"one cell"]
    lines[90:90] = [b"1,2,3", b"caf\xe9,x", b"1,caf\xe9,3"]
    lines += [b"", b"last"]
    (tmp_path / "a.csv").write_bytes(b"q,a\n" + b"\n".join(lines))
    rows = [row for block in blocks_of(tmp_path / "a.csv", 500)[1] for row in block.data.to_pylist()]
    faults = {number: row[UNREADABLE] for number, row in enumerate(rows) if row[UNREADABLE]}
    assert {number: (fault["reason"], fault["raw"]) for number, fault in faults.items()} == {
        3: ("the header has 2 cells, the row 1", b"one cell"),
        90: ("the header has 2 cells, the row 3", b"1,2,3"),
        91: ("not UTF-8: byte 0xe9", b"caf\xe9,x"),
        92: ("the header has 2 cells, the row 3", b"1,caf\xe9,3"),
        404: ("the header has 2 cells, the row 1", b"last"),
    }
    fine = [row for row in rows if not row[UNREADABLE]]
    assert [(row["q"], row["a"]) for row in fine] == [(f"q{i}", f"a\n{i}") for i in range(400)]


def test_csv_rows_that_do_not_fit_are_set_aside_on_a_machine_with_many_cores(tmp_path):
    (tmp_path / "a.csv").write_text("q,a\nhello,hi\n1,2,3\nbye,so long\n")
    code = (
        "import sys, pyarrow as pa\n"
        "from tokpack.stages.read.csv_rows import csv_batches\n"
        "pa.set_cpu_count(8)\n"
        "rows = [row for b in csv_batches(open(sys.argv[1], 'rb'), 'a.csv') for row in b.to_pylist()]\n"
        "print([row['q'] for row in rows])"
    )
    user = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, "-c", code, str(tmp_path / "a.csv")]
    result = subprocess.run(command, env=user, capture_output=True, text=True, check=False)
    assert result.stdout == "['hello', None, 'bye']\n", result.stderr


CELLS = st.sampled_from([b"a", b"\xc3\xa9", b"\xf0\x9f\x99\x82", b"\xe9", b"\xf0\x9f", b"\xf4\x8f\xbf\x81"])


@settings(max_examples=60)
@given(rows=st.lists(st.lists(CELLS, min_size=1, max_size=3), max_size=30), piece=st.integers(1, 7))
def test_every_csv_row_comes_once_whatever_its_bytes_and_however_it_is_read(rows, piece):
    class Pieces(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, piece))

    lines = [b",".join(cells) for cells in rows]
    found = [row for b in csv_batches(Pieces(b"\n".join([b"q,a", *lines])), "x") for row in b.to_pylist()]
    assert len(found) == len(rows)
    for cells, line, row in zip(rows, lines, found, strict=True):
        if len(cells) != 2:
            assert row[UNREADABLE]["reason"] == f"the header has 2 cells, the row {len(cells)}"
            assert row[UNREADABLE]["raw"] == line
        elif b"\xe9" in cells or b"\xf0\x9f" in cells:
            assert row[UNREADABLE]["reason"].startswith("not UTF-8")
            assert row[UNREADABLE]["raw"] == line
        else:
            assert [row["q"], row["a"]] == [cell.decode() for cell in cells]


@settings(max_examples=60)
@given(data=st.data(), columns=st.integers(1, 3), newline=st.booleans())
def test_every_csv_row_that_is_written_is_read(data, columns, newline):
    cell = st.text(st.sampled_from('a,"\n é\U0010ff85'), max_size=6)
    rows = data.draw(st.lists(st.lists(cell, min_size=columns, max_size=columns), max_size=20))
    names = list("abc"[:columns])
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([names, *rows])
    text = buffer.getvalue() if newline else buffer.getvalue().removesuffix("\n")
    found = [row for b in csv_batches(io.BytesIO(text.encode()), "x") for row in b.to_pylist()]
    assert [[row.get(name) for name in names] for row in found] == rows
    assert not any(row[UNREADABLE] for row in found)


@pytest.mark.parametrize("opened", ["3,4", "3", "3,4,5"])
def test_a_csv_quote_that_swallows_lines_is_an_error_at_its_row(tmp_path, opened):
    (tmp_path / "a.csv").write_text('q,a\n1,"2"\n' + opened.replace("3", '3,"', 1) + "\n5,6\n7,8")
    with pytest.raises(DataError, match="the row takes in the 2 lines after it") as error:
        blocks_of(tmp_path / "a.csv")
    assert error.value.where == f"{tmp_path / 'a.csv'}:2"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_csv_file_cut_off_inside_its_last_row_loses_that_row_alone(tmp_path, end):
    (tmp_path / "a.csv").write_text('q,a\n1,"2"\n3,"4' + end)
    rows = [row for block in blocks_of(tmp_path / "a.csv")[1] for row in block.data.to_pylist()]
    assert [row["q"] for row in rows] == ["1", None]
    assert rows[1][UNREADABLE] == {"reason": "a quote is not closed", "raw": b"3,4"}


def test_a_csv_file_of_blank_lines_has_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text("\n\n")
    assert blocks_of(tmp_path / "a.csv")[1] == []


def test_a_csv_row_of_megabytes_is_a_row(tmp_path):
    long = "x y\n" * 700_000
    (tmp_path / "a.csv").write_text(f'q,a\n1,2\n3,"{long}"\n5,6\n')
    rows = [row for block in blocks_of(tmp_path / "a.csv")[1] for row in block.data.to_pylist()]
    assert [(row["q"], row["a"]) for row in rows] == [("1", "2"), ("3", long), ("5", "6")]


def test_a_csv_header_that_is_not_utf8_is_an_error(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"pr\xe9nom,answer\na,b\n")
    with pytest.raises(DataError, match="the header is not UTF-8: byte 0xe9"):
        blocks_of(tmp_path / "a.csv")


def test_two_columns_of_one_name_are_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("q,a,q\n1,2,3\n")
    pq.write_table(pa.table([[1], [2]], names=["q", "q"]), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(DataError, match="two columns are named 'q'"):
            blocks_of(tmp_path / name)


@pytest.mark.parametrize("container", ["parquet", "arrow", "dataset"])
def test_a_row_of_a_table_with_text_that_is_not_utf8_is_set_aside_alone(tmp_path, container):
    raw = pa.array([b"fine", b"caf\xe9", b"well"])
    text = pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:])
    nested = pa.StructArray.from_arrays([text], ["inside"])
    table = pa.table({"n": [1, 2, 3], "nested": nested})
    if container == "parquet":
        pq.write_table(table, tmp_path / "a.parquet")
    elif container == "arrow":
        with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    else:
        datasets = pytest.importorskip("datasets")

        datasets.disable_progress_bars()
        datasets.Dataset(table).save_to_disk(tmp_path / "a.dataset")
    _, blocks = blocks_of(tmp_path / f"a.{container}")
    rows = [row for block in blocks for row in readable_rows(block.data)]
    assert [row["n"] for row in rows if isinstance(row, dict)] == [1, 3]
    assert rows[0]["nested"] == {"inside": "fine"}
    assert rows[1].reason == "it holds a text that is not UTF-8"
    assert b"caf\\xe9" in rows[1].raw


@pytest.mark.parametrize("container", ["jsonl", "json", "csv", "parquet", "text"])
def test_standard_input_is_recognized_and_then_read_from_its_beginning(tmp_path, monkeypatch, container):
    """Rows far longer than a pipe's buffer, written in small pieces."""
    rows = [{"text": f"{i} " + "x" * 30_000} for i in range(20)]
    table = pa.Table.from_pylist(rows)
    path = tmp_path / "rows"
    if container == "parquet":
        pq.write_table(table, path)
    elif container == "csv":
        pacsv.write_csv(table, path)
    else:
        lines = [row["text"] if container == "text" else json.dumps(row) for row in rows]
        path.write_text(json.dumps(rows) if container == "json" else "\n".join(lines))
    command = [sys.executable, "-c", PIECEMEAL, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=process.stdout))
        sources = open_sources((SourceConfig(path="-", container=container),))
        shape = detect_shape(sources[0])
        blocks = list(read_blocks(sources, 100_000))
    documents = [normalize(block, sources[0], shape).documents for block in blocks]
    assert [text for frame in documents for (text,) in frame["contents"].to_list()] == [
        row["text"] for row in rows
    ]
    assert sources[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


PIECEMEAL = """
import sys, time
body = open(sys.argv[1], "rb").read()
for start in range(0, len(body), 9000):
    sys.stdout.buffer.write(body[start : start + 9000])
    sys.stdout.buffer.flush()
    time.sleep(0.001)
"""


def test_standard_input_cannot_be_given_twice():
    with pytest.raises(UsageError, match="twice"):
        open_sources((SourceConfig(path="-"), SourceConfig(path="-")))


def test_a_folder_is_read_without_hidden_files_and_without_packed_datasets(tmp_path):
    for name in ("a.jsonl", ".b.jsonl", ".cache/c.jsonl", "out/SHA256SUMS", "out/quarantine.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "x"}\n')
    (tmp_path / "begun" / ".work").mkdir(parents=True)
    (tmp_path / "begun" / "report.json").write_text("{}")
    assert [s.name for s in open_sources((SourceConfig(path=str(tmp_path)),))] == ["a.jsonl"]


def test_globs_and_folders_expand_in_a_stable_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "notes.md"):
        (tmp_path / name).write_text('{"text": "x"}\n')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jsonl").write_text('{"text": "y"}\n')
    names = [s.name for s in open_sources((SourceConfig(path=str(tmp_path / "*.jsonl")),))]
    assert names == ["a.jsonl", "b.jsonl"]
    names = [s.name for s in open_sources((SourceConfig(path=str(tmp_path)),))]
    assert names == ["a.jsonl", "b.jsonl", "sub/a.jsonl"]
    twice = (
        SourceConfig(path=str(tmp_path / "a.jsonl")),
        SourceConfig(path=str(tmp_path / "sub" / "a.jsonl")),
    )
    assert [s.name for s in open_sources(twice)] == ["a.jsonl", "a.jsonl#2"]


def test_a_missing_file_names_its_neighbors(tmp_path):
    (tmp_path / "chats.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match=r"did you mean 'chats\.jsonl'"):
        open_sources((SourceConfig(path=str(tmp_path / "chat.jsonl")),))


def test_row_numbers_count_blank_lines(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\n{"text": "a"}\n\n \n{"text": "b"}\n')
    _, blocks = blocks_of(tmp_path / "a.jsonl")
    assert np.array_equal(np.concatenate([line_numbers(block) for block in blocks]), [2, 5])


def test_every_split_of_a_saved_dataset_dict_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")

    datasets.disable_progress_bars()
    parts = {name: datasets.Dataset.from_list([{"text": name}] * 3) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    sources, blocks = blocks_of(tmp_path / "saved")
    assert [s.name for s in sources] == ["saved/train", "saved/test"]
    assert sum(block.rows for block in blocks) == 6


def test_what_arrow_does_not_read_is_not_called_damaged(tmp_path):
    deep = pa.array(["x"])
    for _ in range(60):
        deep = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), deep)
    pq.write_table(pa.table({"text": deep}), tmp_path / "deep.parquet")
    with pytest.raises(DataError, match="too deeply nested") as found:
        blocks_of(tmp_path / "deep.parquet")
    assert found.value.hint == "Arrow reads no columns nested so deep: write it as JSONL"


def test_a_hundred_thousand_names_of_columns_are_compared_once():
    names = [f"c{number}" for number in range(100_000)]
    tables._check_names(names, SimpleNamespace(path="x"))  # one by one this took minutes
    with pytest.raises(DataError, match="two columns are named 'c5'"):
        tables._check_names([*names, "c5"], SimpleNamespace(path="x"))
