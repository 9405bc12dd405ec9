"""Parquet texts that are told by those before them: their lengths are known before they are made."""

from __future__ import annotations

import io
import random
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokpack.errors import DataError
from tokpack.files.parquet_files import row_group_columns
from tokpack.settings.config import SourceConfig
from tokpack.stages.read import parquet_rows, streams
from tokpack.stages.read.delta_pages import text_sizes
from tokpack.stages.read.parquet_rows import parquet_batches
from tokpack.stages.read.sources import Source

MB = 1 << 20
CODECS = ["none", "snappy", "zstd", "gzip", "lz4", "brotli"]
PATHS = {"flat": "x", "lists": "x.list.element", "objects": "x.a"}


def column(kind: str, texts: list[str | None], draw: random.Random) -> pa.Array:
    if kind == "flat":
        return pa.array(texts, pa.string())
    if kind == "objects":
        return pa.array([{"a": text} for text in texts], pa.struct([("a", pa.string())]))
    ends = [*sorted(draw.choices(range(len(texts) + 1), k=5)), len(texts)]
    rows = [texts[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return pa.array([*rows, None], pa.list_(pa.string()))


def written(array: pa.Array, path: str, **options) -> io.BytesIO:
    made = io.BytesIO()
    encoding = {path: "DELTA_BYTE_ARRAY"}
    pq.write_table(pa.table({"x": array}), made, use_dictionary=False, column_encoding=encoding, **options)
    return made


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", PATHS)
def test_lengths_add_up_to_the_texts(kind, codec, version):
    draw = random.Random(f"{kind} {codec} {version}")
    for count in (0, 1, 2, 31, 33, 128, 130, 1000):
        texts: list[str | None] = ["".join(draw.choices("abé", k=draw.randrange(200))) for _ in range(count)]
        texts = [text if draw.random() < 0.9 else None for text in sorted(filter(None, texts))]
        file = written(
            column(kind, texts, draw),
            PATHS[kind],
            compression=codec,
            data_page_version=version,
            data_page_size=4000,
        )
        read = pq.ParquetFile(file)
        source = SimpleNamespace(size_bytes=1 << 40, path="x")
        groups = range(read.num_row_groups)
        found = [
            text_sizes(file, read.schema.column(0), row_group_columns(file)[group][0], source)
            for group in groups
        ]
        lengths = [len(text.encode()) for text in texts if text is not None]
        assert sum(one.total for one in found) == sum(lengths)
        assert max((one.longest for one in found), default=0) == max(lengths, default=0)


def source_of(file: io.BytesIO, max_line: int = 256 * MB) -> Source:
    size = len(file.getvalue())
    return Source("x", "x.parquet", "parquet", "", SourceConfig(path="x.parquet"), size, max_line=max_line)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(parquet_rows, "MOST_BYTES", MB)
    monkeypatch.setattr(streams, "LEAST_BOMB", MB)


@pytest.mark.parametrize("kind", PATHS)
def test_a_file_that_stands_for_much_more_than_it_holds_is_refused_before_it_is_read(small, kind):
    file = written(column(kind, ["x" * MB] * 30, random.Random(0)), PATHS[kind], compression="zstd")
    assert len(file.getvalue()) < 30_000
    with pytest.raises(DataError, match="unpacks to more than 1,000 times its size"):
        next(parquet_batches(file, source_of(file)))


def test_a_text_beyond_the_longest_line_is_refused(small):
    file = written(pa.array(["x" * 3 * MB, "y"]), "x", compression="none")
    with pytest.raises(DataError, match="a text of 3,145,728 bytes in the column x"):
        next(parquet_batches(file, source_of(file, max_line=MB)))


def test_few_rows_of_long_texts_are_read_at_once(small, monkeypatch):
    monkeypatch.setattr(parquet_rows, "AT_ONCE", 1000)
    draw = random.Random(0)
    texts = ["".join(draw.choices("ab", k=draw.randrange(400))) for _ in range(300)]
    file = written(pa.array(texts), "x")
    batches = list(parquet_batches(file, source_of(file)))
    assert max(batch.num_rows for batch in batches) <= 2
    assert [text for batch in batches for text in batch["x"].to_pylist()] == texts


def test_pages_that_cannot_be_read_are_said(small):
    file = written(pa.array(["x" * MB + str(n) for n in range(30)]), "x", compression="none")
    data = bytearray(file.getvalue())
    start = pq.ParquetFile(file).metadata.row_group(0).column(0).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    file = io.BytesIO(bytes(data))
    with pytest.raises(DataError, match="the lengths of the texts in the column x cannot be read"):
        next(parquet_batches(file, source_of(file)))
