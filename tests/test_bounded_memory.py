"""Memory is bounded by the longest line allowed, whatever the input unpacks to."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokpack.errors import DataError
from tokpack.settings.config import SourceConfig
from tokpack.stages.read import streams
from tokpack.stages.read.blocks import read_blocks, rows_of
from tokpack.stages.read.json_arrays import as_lines
from tokpack.stages.read.sources import Source, open_sources

MB = 1 << 20


def source_of(path, container: str, compression: str = "", max_line: int = MB) -> Source:
    config = SourceConfig(path=str(path))
    return Source(
        path.name, str(path), container, compression, config, path.stat().st_size, max_line=max_line
    )


VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a,"\\[]{}\n\r\té\U0001f642'), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\,[', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(
    rows=st.lists(VALUES, max_size=6),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    piece=st.integers(1, 9),
    mark=st.booleans(),
)
def test_an_array_in_a_stream_is_its_elements(rows, indent, ascii_only, piece, mark):
    class Pieces(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, piece) if size >= 0 else piece)

    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    data = b"\xef\xbb\xbf" * mark + f" \n{text}\r\n ".encode("utf-8", "surrogatepass")
    stream = as_lines(Pieces(data), "a.json")
    lines = stream.read()
    assert len(lines) == len(data)
    found = lines.removeprefix(b"\xef\xbb\xbf").decode()
    assert [json.loads(line) for line in found.split("\n") if line.strip(" ")] == rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"a": 1}', [{"a": 1}]),
        ('{\n "a": 1\n}', [{"a": 1}]),
        ('{"a": 1},\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ("[]", []),
        (" [ ] ", []),
        ('[{"a": "\\\\"}, {"a": "\\""}]', [{"a": "\\"}, {"a": '"'}]),
    ],
)
def test_what_a_json_file_may_hold(tmp_path, text, rows):
    (tmp_path / "a.json").write_text(text)
    source = source_of(tmp_path / "a.json", "json")
    assert [row for block in read_blocks([source]) for row in rows_of(block, source)] == rows


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"a": 1}', "it ends inside an element"),
        ('[{"a": "1}]', "it ends inside a string"),
        ('[{"a": 1}] x', "something follows the array"),
        ("[1]\n[2]", "something follows the array"),
        ('{"a": [\n1}]}', "a bracket closes nothing"),
    ],
)
def test_a_file_that_is_no_array_is_an_error(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=f"not a JSON array: {reason}"):
        list(read_blocks([source_of(tmp_path / "a.json", "json")]))


@pytest.mark.parametrize("container", ["jsonl", "json", "text"])
@pytest.mark.parametrize("compression", [".zst", ".gz"])
@pytest.mark.parametrize("filling", [b"\0", b" ", b"["])
def test_a_line_without_end_is_an_error_before_it_is_read(tmp_path, container, compression, filling):
    path = tmp_path / f"a.{container}{compression}"
    data = b'[{"a": 1},\n' * (container == "json") + filling * (24 * MB)
    codec = {".gz": "gzip", ".zst": "zstd"}[compression]
    with pa.CompressedOutputStream(str(path), codec) as out:
        out.write(data)
    source = source_of(path, container, compression)
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match="a line of more than 1 MB") as error:
        list(read_blocks([source]))
    assert error.value.where == f"{path}:{2 if container == 'json' else 1}"
    assert pa.total_allocated_bytes() - before < 8 * MB


def test_the_limit_is_of_lines_not_of_blocks(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [b"x" * MB, b"y" * (MB + 1)]
    path.write_bytes(b"\n".join([lines[0]] * 3) + b"\n")
    assert sum(block.rows for block in read_blocks([source_of(path, "jsonl")], 16 * MB)) == 3
    path.write_bytes(b"\n".join([lines[0], lines[1], lines[0]]) + b"\n")
    for block_bytes in (1 << 16, 16 * MB):
        with pytest.raises(DataError, match="a line of more than 1 MB") as error:
            list(read_blocks([source_of(path, "jsonl")], block_bytes))
        assert error.value.where == f"{path}:2"


def test_a_compressed_table_that_unpacks_without_end_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "LEAST_BOMB", MB)
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(gzip.compress(b"PAR1" + b"\0" * (20 * MB)))
    with pytest.raises(DataError, match="it unpacks to more than 1,000 times its size"):
        list(read_blocks([source_of(path, "parquet", ".gz")]))


def test_the_limit_is_a_setting(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    (source,) = open_sources((SourceConfig(path=str(tmp_path / "a.jsonl")),), 5 * MB)
    assert source.max_line == 5 * MB
