"""Read: sources -> blocks of about 8 MB, each with its place in the input.

A block is cut by bytes at a row boundary and never crosses a file, so blocks (and with them everything
downstream) do not depend on how many workers there are. `doc_id` is a row's position over all inputs;
unreadable rows use theirs up. Parsing belongs to `normalize`; this module only finds row boundaries.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import xxhash

from tokpack.errors import DataError, reading
from tokpack.stages.read.arrow_values import table_rows
from tokpack.stages.read.csv_rows import csv_batches
from tokpack.stages.read.plain_types import plain_batch
from tokpack.stages.read.sources import Source, saved_field
from tokpack.stages.read.streams import BOM, decompress, open_hashing, seekable

BLOCK_BYTES = 8 << 20
NEWLINE, SPACE = b"\n "


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of one source. `data`: whole lines of JSON or text as bytes, or an Arrow table."""

    index: int
    source: int
    first_doc_id: int
    first_row: int
    """Rows before this block in its source (lines, blank ones included, for line formats)."""
    rows: int
    lines: int
    """Rows and blank lines."""
    data: bytes | pa.Table
    byte_offset: int = 0
    """Where `data` begins in the decompressed source; line formats only."""

    def digest(self) -> str:
        """Of the content of all rows; the same whatever memory they lie in."""
        if isinstance(self.data, bytes):
            return xxhash.xxh3_64_hexdigest(self.data)
        hashing = _HashingSink()
        with pa.ipc.new_stream(pa.PythonFile(hashing, "w"), self.data.schema) as writer:
            writer.write_table(self.data.combine_chunks())
        return hashing.digest.hexdigest()


def read_blocks(sources: list[Source], block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """All sources, one block after another. Fills in each source's `sha256` as it is used up."""
    index = doc_id = 0
    for number, source in enumerate(sources):
        row = 0
        for rows, lines, offset, data in chunks(source, block_bytes):
            yield Block(index, number, doc_id, row, rows, lines, data, offset)
            index, doc_id, row = index + 1, doc_id + rows, row + lines


def line_numbers(block: Block) -> np.ndarray[Any, np.dtype[np.int64]]:
    """1-based row number in the source of each of the block's rows: for line formats, blank lines count."""
    if not isinstance(block.data, bytes) or block.lines == block.rows:
        return np.arange(block.first_row + 1, block.first_row + 1 + block.rows, dtype=np.int64)
    filled = np.fromiter((bool(line.strip()) for line in block.data.split(b"\n")), bool)
    return np.flatnonzero(filled) + block.first_row + 1


def rows_of(block: Block, source: Source) -> list[Any]:
    """The block's rows as Python values, one by one: for small files. Raises DataError for a broken line."""
    if not isinstance(block.data, bytes):
        return list(table_rows(block.data))
    rows: list[Any] = []
    for number, line in enumerate(block.data.split(b"\n"), 1):
        if line.strip():
            try:
                text = line.decode("utf-8")
                rows.append(text if source.container == "text" else json.loads(text))
            except (ValueError, RecursionError) as error:
                what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
                raise DataError(
                    f"not {what}: {error}",
                    where=f"{source.path}:{block.first_row + number}",
                    hint="mend the line, or take it out",
                ) from None
    return rows


class _HashingSink:
    closed = False

    def __init__(self) -> None:
        self.digest = xxhash.xxh3_64()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None: ...


# Files to chunks: (rows, lines, byte offset, data)

Chunk = tuple[int, int, int, "bytes | pa.Table"]


def chunks(source: Source, block_bytes: int) -> Iterator[Chunk]:
    """A source in pieces that end at a row's end; its `sha256` is set after the last."""
    with reading(source.path):
        try:
            if source.container == "dataset":
                yield from _dataset_chunks(source, block_bytes)
            else:
                yield from _file_chunks(source, block_bytes)
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(
                f"cannot read {source.container}{source.compression}: {error}",
                where=source.path,
                hint="the file is damaged or cut off: fetch it again, or take it out of the inputs",
            ) from None


def _file_chunks(source: Source, block_bytes: int) -> Iterator[Chunk]:
    with open_hashing(source) as raw:
        stream = decompress(raw, source)
        if source.container == "json":
            yield from _json_chunks(stream, source, block_bytes)
        elif source.container in ("jsonl", "text"):
            yield from _line_chunks(stream, block_bytes)
        else:
            yield from _table_chunks(stream, source, block_bytes)
        source.sha256 = raw.hexdigest()


def _line_chunks(stream: IO[bytes], block_bytes: int) -> Iterator[Chunk]:
    """Whole lines, about `block_bytes` at a time; a longer line is a block of its own."""
    head = stream.read(3)
    rest, offset = ([], 3) if head == BOM else ([head], 0)
    while data := stream.read(block_bytes):
        cut = data.rfind(b"\n") + 1
        if not cut:
            rest.append(data)
            continue
        chunk = b"".join([*rest, data[:cut]])
        rest = [data[cut:]]
        yield _count_lines(chunk, offset)
        offset += len(chunk)
    last = b"".join(rest)
    if last.strip():
        yield _count_lines(last, offset)


def _count_lines(chunk: bytes, offset: int) -> Chunk:
    """Lines with something in them, lines in all. A line that begins with white space is looked at."""
    characters = np.frombuffer(chunk, np.uint8)
    starts = np.append(0, np.flatnonzero(characters == NEWLINE) + 1)
    starts = starts[starts < len(chunk)]
    odd = starts[characters[starts] <= SPACE]
    ends = [chunk.find(b"\n", start) for start in odd.tolist()]
    blank = sum(not chunk[a : b if b >= 0 else None].strip() for a, b in zip(odd.tolist(), ends, strict=True))
    return len(starts) - blank, len(starts), offset, chunk


def _json_chunks(stream: IO[bytes], source: Source, block_bytes: int) -> Iterator[Chunk]:
    """A JSON array becomes one JSON line an element; a `.json` file of JSON lines is read as such."""
    text = stream.read()
    body = text.removeprefix(BOM).lstrip()
    if body[:1] != b"[":
        if body.count(b"\n") and b"\n{" in body and _looks_like_lines(body):
            yield from _line_chunks(io.BytesIO(text), block_bytes)
            return
        body = b"[" + body + b"]" if body else b"[]"
    try:
        rows = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"not a JSON array: {error}",
            where=source.path,
            hint="mend it there, or write one JSON object a line and name the file .jsonl",
        ) from None
    lines: list[bytes] = []
    size = 0
    for row in rows:
        lines.append(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        size += len(lines[-1])
        if size >= block_bytes:
            yield len(lines), len(lines), 0, b"\n".join(lines)
            lines, size = [], 0
    if lines:
        yield len(lines), len(lines), 0, b"\n".join(lines)


def _looks_like_lines(body: bytes) -> bool:
    try:
        json.loads(body[: body.index(b"\n")])
    except (ValueError, RecursionError):
        return False
    return True


def _table_chunks(stream: IO[bytes], source: Source, block_bytes: int) -> Iterator[Chunk]:
    yield from _tables(_record_batches(stream, source), source, block_bytes)


def _tables(batches: Iterator[pa.RecordBatch], source: Source, block_bytes: int) -> Iterator[Chunk]:
    for table in _merge(batches, block_bytes):
        names = table.column_names
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(
                f"two columns are named {twice[0]!r}" if twice[0] else "two columns have no name",
                where=source.path,
                hint="rename one of them, or take empty ones out",
            )
        table.validate(full=True)  # texts that are not UTF-8 pass Arrow's readers
        yield table.num_rows, table.num_rows, 0, table


def _record_batches(stream: IO[bytes], source: Source) -> Iterator[pa.RecordBatch]:
    if source.container == "csv":
        yield from csv_batches(stream, source.path)
    elif source.container == "parquet":
        import pyarrow.parquet as pq

        lazily = {"pre_buffer": False, "buffer_size": 1 << 16} if source.head_only else {}
        yield from pq.ParquetFile(seekable(stream, source), **lazily).iter_batches(batch_size=4096)
    else:
        yield from _ipc_batches(seekable(stream, source))


def _ipc_batches(stream: IO[bytes]) -> Iterator[pa.RecordBatch]:
    head = stream.read(6)
    stream.seek(0)
    if head == b"ARROW1":
        reader = pa.ipc.open_file(stream)
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(stream)


def _dataset_chunks(source: Source, block_bytes: int) -> Iterator[Chunk]:
    """A folder written by `datasets.save_to_disk`; its hash covers all shards in order."""
    files = saved_field(Path(source.path) / "state.json", "_data_files")
    digest = hashlib.sha256()

    def batches() -> Iterator[pa.RecordBatch]:
        for entry in files:
            with (Path(source.path) / entry["filename"]).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                file.seek(0)
                yield from _ipc_batches(file)

    yield from _tables(batches(), source, block_bytes)
    source.sha256 = digest.hexdigest()


def _merge(batches: Iterator[pa.RecordBatch], block_bytes: int) -> Iterator[pa.Table]:
    """Join small record batches, and slice large ones, into tables of about `block_bytes`."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in map(plain_batch, batches):
        rows = max(1, batch.num_rows * block_bytes // max(batch.nbytes, 1))
        for start in range(0, batch.num_rows, rows):
            part = batch.slice(start, rows)
            held.append(part)
            size += part.nbytes
            if size >= block_bytes:
                yield pa.Table.from_batches(held)
                held, size = [], 0
    if held:
        yield pa.Table.from_batches(held)
