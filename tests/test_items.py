"""Items: every row lies in exactly one, wherever the input is cut, and each is opened without the others."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import random
from pathlib import Path

import polars as pl
import pytest
from chats import messy_rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

import tokpack
from tokpack.errors import DataError
from tokpack.settings.config import SourceConfig
from tokpack.stages.read.blocks import line_numbers, read_blocks
from tokpack.stages.read.items import Reading, cut, read_item, rows_before
from tokpack.stages.read.sources import open_sources


def sources_of(*paths):
    return open_sources(tuple(SourceConfig(path=str(path)) for path in paths))


def rows_in_order(readings_of_items):
    """(source, row, line) of every row: rows shifted by the items before, as the corpus shifts them."""
    found, lines = [], {}
    for readings in readings_of_items:
        own = {}
        for reading in readings:
            for block in reading.blocks:
                filled = [line for line in block.data.split(b"\n") if line.strip()]
                before = lines.get(block.source, 0)
                found += [
                    (block.source, before + number, line)
                    for number, line in zip(line_numbers(block).tolist(), filled, strict=True)
                ]
            for source, count in reading.lines.items():
                own[source] = own.get(source, 0) + count
        for source, count in own.items():
            lines[source] = lines.get(source, 0) + count
    return found


def as_read_in_order(sources):
    return rows_in_order([[Reading((block,)) for block in read_blocks(sources, 1 << 20)]])


LINES = st.lists(
    st.sampled_from([b"", b" ", b"{}", b"x" * 7, b"y" * 40, b"\xef\xbb\xbfz", b"\r"]), max_size=25
)


@settings(max_examples=150, deadline=None)
@given(
    lines=LINES,
    size=st.integers(3, 70),
    end=st.sampled_from([b"", b"\n", b"\n\n", b"  "]),
    mark=st.booleans(),
)
def test_lines_lie_in_one_range_wherever_a_file_is_cut(lines, size, end, mark, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" * mark + b"\n".join(lines) + end)
    if not path.stat().st_size:
        return
    sources = sources_of(path)
    items = cut(sources, size)
    assert pickle.loads(pickle.dumps(items)) == items
    whole = as_read_in_order(sources)
    random.Random(size).shuffle(shuffled := list(items))
    read = {item.index: list(read_item(item, sources, size)) for item in shuffled}
    assert rows_in_order(read[item.index] for item in items) == whole
    offsets = [(block.byte_offset, block.data) for of in read.values() for one in of for block in one.blocks]
    raw = path.read_bytes()
    assert all(raw[offset : offset + len(data)] == data for offset, data in offsets)


def test_a_file_is_cut_into_equal_blocks_for_pairs_of_workers(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"x" * 2100)
    sizes = [extent.end - extent.start for item in cut(sources_of(path), 200) for extent in item.extents]
    assert len(sizes) == 12
    assert max(sizes) - min(sizes) <= len(sizes)
    assert sum(sizes) == 2100


def test_a_range_reads_no_more_than_itself_and_the_end_of_its_last_line(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_bytes(b"a\n" + b"b" * 5000 + b"\nc\n")
    sources = sources_of(path)
    sizes = [
        sum(block.rows for r in read_item(i, sources, 100) for block in r.blocks) for i in cut(sources, 100)
    ]
    assert sizes[0] == 2
    assert sizes[-1] == 1
    assert sum(sizes) == 3


def test_a_line_that_is_too_long_is_told_with_its_row_in_the_file(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_bytes(b"{}\n\n{}\n" * 100 + b"x" * 3000 + b"\n{}\n")
    sources = sources_of(path)
    sources[0].max_line = 2000
    failed = []
    for item in cut(sources, 200):
        try:
            list(read_item(item, sources, 200))
        except DataError as error:
            failed.append(error.where)
    assert failed == [f"{path}:301"]


def test_small_files_share_items_and_each_keeps_its_rows_and_its_sum(tmp_path):
    for number in range(40):
        text = "\n" * (number % 3) + '{"a": 1}\n{"b": 2}' + "\n" * (number % 2)
        (tmp_path / f"{number:02}.jsonl").write_text(text)
    (tmp_path / "large.jsonl").write_text('{"c": 3}\n' * 100)
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(b'{"d": 4}\n'))
    sources = sources_of(tmp_path)
    items = cut(sources, 400)
    assert [item.kind for item in items].count("files") < 8
    assert [item.kind for item in items].count("lines") == 4
    found = [list(read_item(item, sources, 400)) for item in items]
    assert rows_in_order(found) == as_read_in_order(sources)
    sums = {number: digest for of in found for one in of for number, digest in one.sha256.items()}
    expected = {n: hashlib.sha256(Path(s.path).read_bytes()).hexdigest() for n, s in enumerate(sources)}
    assert sums == {n: digest for n, digest in expected.items() if "large" not in sources[n].name}


def test_row_groups_of_parquet_are_items_of_their_own(tmp_path):
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"text": [f"row {n}" * 5 for n in range(1000)]}).write_parquet(path, row_group_size=100)
    sources = sources_of(path)
    items = cut(sources, 8000)
    assert {item.kind for item in items} == {"groups"}
    assert len(items) > 3
    found = [block.data for i in items for r in read_item(i, sources, 8000) for block in r.blocks]
    assert [value for table in found for value in table.column("text").to_pylist()] == [
        f"row {n}" * 5 for n in range(1000)
    ]
    assert [rows_before(item, sources) for item in items] == [100 * item.extents[0].start for item in items]


def odd_folder(folder):
    """Small files of several layouts beside a large one, with rows that cannot be read."""
    folder.mkdir()
    for number in range(14):
        rows = messy_rows(3, seed=number)
        if number % 5 == 0:
            rows = [json.dumps({"instruction": "say it", "output": f"well {number}"}).encode()]
        if number % 7 == 0:
            rows += [b"{broken", b"", b'{"messages": 5, "instruction": null}']
        write_rows(folder / f"{number:02}.jsonl", rows)
    pl.DataFrame({"instruction": ["a", "b"], "output": ["c", "d"]}).write_csv(folder / "one.csv")
    pl.DataFrame({"instruction": ["e", "f"], "output": ["g", "h"]}).write_csv(folder / "two.csv")
    write_rows(folder / "zz.jsonl", messy_rows(120, seed=99))
    return folder


@pytest.mark.slow
def test_what_is_packed_does_not_depend_on_how_files_share_items(qwen, tmp_path, monkeypatch):
    data, seen = odd_folder(tmp_path / "data"), []
    for number, size in enumerate((1 << 23, 3_000)):
        monkeypatch.setattr("tokpack.run.Run.block_bytes", size)
        out = tmp_path / str(number)
        packed = tokpack.pack(data, out, tokenizer=str(qwen), max_length=128, allow_bad=1.0, val=0.1)
        seen.append((out / "SHA256SUMS").read_bytes())
        assert packed.ledger["documents"]["quarantined"] > 5
    assert seen[0] == seen[1]
    for line in (tmp_path / "0" / "quarantine.jsonl").read_text().splitlines():
        record = json.loads(line)
        rows = (data / record["source"]).read_bytes().split(b"\n")
        assert rows[record["row"] - 1].decode() == record["line"]


def test_strict_names_the_row_in_the_file_wherever_it_was_cut(qwen, tmp_path, monkeypatch):
    path = write_rows(tmp_path / "a.jsonl", [*[b'{"text": "good"}', b""] * 200, b"{broken"])
    monkeypatch.setattr("tokpack.run.Run.block_bytes", 1000)
    with pytest.raises(DataError) as error:
        tokpack.pack(path, tmp_path / "out", tokenizer=str(qwen), strict=True)
    assert error.value.where == "a.jsonl:401"
