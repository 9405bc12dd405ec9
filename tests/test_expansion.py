"""Small files of tables that stand for much more than they hold."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tokpack
from tokpack.errors import DataError
from tokpack.settings.config import SourceConfig
from tokpack.stages.read import parquet_rows
from tokpack.stages.read.arrow_values import table_rows
from tokpack.stages.read.blocks import explained, read_blocks
from tokpack.stages.read.expansion import LEAST_BYTES, entry_bytes
from tokpack.stages.read.sources import Source

MB = 1 << 20
LONG = "x" * (MB // 2)


def many(count: int) -> pa.Array:
    """One long text, `count` times."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([LONG]))


def views(count: int) -> pa.Array:
    one = pa.array([LONG], pa.string_view())
    view = bytes(one.buffers()[1])[:16] * count
    return pa.Array.from_buffers(pa.string_view(), count, [None, pa.py_buffer(view), one.buffers()[2]])


def list_views(count: int) -> pa.Array:
    zeros = pa.array(np.zeros(count, np.int32))
    return pa.ListViewArray.from_arrays(zeros, pa.array(np.ones(count, np.int32)), pa.array([LONG]))


def runs(count: int) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([count], pa.int32()), pa.array([LONG]))


def union(count: int) -> pa.Array:
    zeros = np.zeros(count, np.int32)
    return pa.UnionArray.from_dense(pa.array(zeros.astype(np.int8)), pa.array(zeros), [pa.array([LONG])])


def in_lists(values: pa.Array, width: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, width, dtype=np.int32)), values)


def nulls(count: int) -> pa.Array:
    return pa.Array.from_buffers(pa.null(), count, [None])


BOMBS = {
    "flat.parquet": lambda: many(200_000),
    "lists.parquet": lambda: in_lists(many(200_000), 10),
    "one-row.parquet": lambda: in_lists(many(200_000), 200_000),
    "dictionary.arrow": lambda: many(200_000),
    "views.arrow": lambda: views(200_000),
    "list-views.arrow": lambda: list_views(200_000),
    "runs.arrow": lambda: runs(200_000),
    "union.arrow": lambda: union(200_000),
    "nulls.arrow": lambda: nulls((1 << 31) - 1),
    "null-lists.arrow": lambda: pa.FixedSizeListArray.from_arrays(nulls(1 << 30), 1 << 20),
}


@pytest.mark.slow
def test_a_file_that_stands_for_much_more_is_an_error_in_little_memory(tmp_path):
    for name, made in BOMBS.items():
        table = pa.table({"text": made()})
        if name.endswith(".parquet"):
            pq.write_table(table, tmp_path / name, store_schema=False)
        else:
            with pa.OSFile(str(tmp_path / name), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
                out.write_table(table)
        assert (tmp_path / name).stat().st_size < 10 * MB
    script = """
        import json, os, resource, sys
        from pathlib import Path
        import pyarrow.parquet
        from tokpack.settings.config import SourceConfig
        from tokpack.errors import DataError
        from tokpack.stages.read.blocks import read_blocks
        from tokpack.stages.read.sources import open_sources
        found = {}
        for path in sorted(Path(sys.argv[1]).iterdir()):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                for block in read_blocks(open_sources((SourceConfig(path=str(path)),))):
                    pass
                what = "read"
            except DataError as error:
                what = error.what
            found[path.name] = what, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        print(json.dumps(found), flush=True)
        os._exit(0)  # Arrow's own end of a process can abort it
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == BOMBS.keys()
    for name, (what, grown) in found.items():
        assert "more than 1,000 times its size" in what or "a row of more than 256 MB" in what, (name, what)
        assert grown < 300, (name, grown)


SMALL = {
    "dictionary": pa.array(["a", "bb", None, "a" * 40, "bb"]).dictionary_encode(),
    "views": pa.array(["a", None, "b" * 30, "", "c"], pa.string_view()),
    "list views": pa.array([["a"], None, [], ["b", None], ["c" * 9]], pa.list_view(pa.string())),
    "structs": pa.array(
        [{"a": "x"}, None, {"a": None}, {"a": "yy"}, {"a": ""}],
        pa.struct([("a", pa.dictionary(pa.int8(), pa.string()))]),
    ),
    "lists": pa.array(
        [["a", "b"], [], None, ["c"], ["a"]], pa.large_list(pa.dictionary(pa.int32(), pa.string()))
    ),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["a", "bcd"])),
    "maps": pa.array(
        [[("k", "v")], [], None, [("k", None)], [("a", "b")]], pa.map_(pa.string(), pa.string())
    ),
    "fixed": pa.array([["a", "b"], None, ["c", None], ["d", "e"], ["", ""]], pa.list_(pa.string(), 2)),
}


@pytest.mark.parametrize("name", SMALL)
def test_slices_hold_the_rows_and_sizes_are_at_least_those_of_the_values(name, tmp_path):
    for array in (SMALL[name], SMALL[name][1:], SMALL[name][1:4]):
        table = pa.table({"text": array, "other": pa.array(["d"] * len(array)).dictionary_encode()})
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
            out.write_table(table)
        rows = [row for block in blocks(tmp_path / "a.arrow", 40) for row in table_rows(block.data)]
        assert rows == table_rows(table)
        values = array.to_pylist()
        assert all(size >= LEAST_BYTES for size in entry_bytes(array))
        flat = [len(value) if isinstance(value, str) else 0 for value in values]
        assert all(entry_bytes(array) >= flat)


def blocks(path, block_bytes, max_line=256 * MB):
    source = Source(
        path.name, str(path), path.suffix[1:], "", SourceConfig(path=str(path)), path.stat().st_size
    )
    source.max_line = max_line
    return list(read_blocks([source], block_bytes))


def test_texts_read_as_dictionaries_are_the_same_rows_utf8_or_not(tmp_path, monkeypatch):
    texts = [b"a", b"caf\xff", b"bb" * 50, None, b"a"] * 100
    table = pa.table({"text": pa.array(texts).view(pa.string()), "n": range(500)})
    nested = in_lists(pa.array(["u", None, "v" * 20, "w", "u"] * 200), 2)
    pq.write_table(table.append_column("lists", nested), tmp_path / "a.parquet", row_group_size=90)
    plain = blocks(tmp_path / "a.parquet", 1 << 20)
    monkeypatch.setattr(parquet_rows, "MOST_BYTES", 0)
    read = blocks(tmp_path / "a.parquet", 1 << 20)
    assert [b.data.to_pylist() for b in read] == [b.data.to_pylist() for b in plain]
    small = [row for b in blocks(tmp_path / "a.parquet", 500) for row in b.data.to_pylist()]
    faults = "tokpack:unreadable"
    assert [row.get(faults) for row in small] == [r.get(faults) for b in plain for r in b.data.to_pylist()]
    assert sum(row.get(faults) is not None for row in small) == 100


def test_a_row_longer_than_a_line_may_be_is_an_error(tmp_path):
    table = pa.table({"text": in_lists(many(8), 8)})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    assert blocks(tmp_path / "a.arrow", MB, 5 * MB)[0].rows == 1
    with pytest.raises(DataError, match="a row of more than 2 MB"):
        blocks(tmp_path / "a.arrow", MB, 2 * MB)


def test_a_block_of_more_text_than_the_store_counts_is_an_error(qwen, tmp_path, monkeypatch):
    monkeypatch.setattr("tokpack.stages.render.pieces.MOST_TEXT", 10_000)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "some words"}\n' * 2000)
    with pytest.raises(DataError, match=r"[0-9,]+ bytes and more of a block of 2,000 documents") as error:
        tokpack.pack(path, tmp_path / "out", tokenizer=str(qwen), max_length=128)
    assert error.value.where == "a.jsonl, row 1"
    assert "read.block_mb" in error.value.hint


def test_what_arrow_does_not_read_is_not_called_damaged(tmp_path):
    (tmp_path / "a.parquet").touch()
    path = str(tmp_path / "a.parquet")
    source = Source("a.parquet", path, "parquet", "", SourceConfig(path=path))
    with pytest.raises(DataError) as error, explained(source):
        raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
    assert "smaller row groups" in error.value.hint
