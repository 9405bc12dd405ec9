"""Read: sources -> blocks of about 8 MB, each with its place in the input.

A block is cut by bytes at a row boundary and never crosses a file, so blocks (and with them everything
downstream) do not depend on how many workers there are. `doc_id` is a row's position over all inputs;
unreadable rows use theirs up. Parsing belongs to `normalize`; this module only finds row boundaries.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import xxhash

from tokpack.errors import DataError, reading
from tokpack.stages.read.faults import Unreadable, readable_rows
from tokpack.stages.read.sources import Source
from tokpack.stages.read.streams import BOM, decompress, open_hashing
from tokpack.stages.read.tables import dataset_blocks, table_blocks

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
    return np.flatnonzero(filled_lines(block.data)) + block.first_row + 1


def filled_lines(data: bytes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which lines are not blank."""
    return np.fromiter((bool(line.strip()) for line in data.split(b"\n")), bool)


def rows_of(block: Block, source: Source) -> list[Any]:
    """The block's rows as Python values, one by one: for small files. Raises DataError for a broken line."""
    rows: list[Any] = []
    if not isinstance(block.data, bytes):
        for number, row in enumerate(readable_rows(block.data), block.first_row + 1):
            if isinstance(row, Unreadable):
                where = f"{source.path}:{number}"
                raise DataError(row.reason, where=where, hint="mend the row, or take it out")
            rows.append(row)
        return rows
    for number, line in enumerate(block.data.split(b"\n"), 1):
        if line.strip():
            try:
                text = line.removeprefix(BOM).decode("utf-8")
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
                yield from _table_chunks(dataset_blocks(source, block_bytes))
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
            yield from _table_chunks(table_blocks(stream, source, block_bytes))
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


def _table_chunks(tables: Iterator[pa.Table]) -> Iterator[Chunk]:
    for table in tables:
        yield table.num_rows, table.num_rows, 0, table
