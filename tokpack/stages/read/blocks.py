"""Read: sources -> blocks of about 8 MB, each with its place in the input.

A block is cut by bytes at a row boundary and never crosses a file, so blocks (and with them everything
downstream) do not depend on how many workers there are. `doc_id` is a row's position over all inputs;
unreadable rows use theirs up. Parsing belongs to `normalize`; this module only finds row boundaries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from tokpack.errors import DataError, reading
from tokpack.frozen import frozen
from tokpack.settings.config import TREES
from tokpack.stages.read.faults import Unreadable, readable_rows
from tokpack.stages.read.json_arrays import as_lines
from tokpack.stages.read.lines import Chunk, line_chunks, too_long
from tokpack.stages.read.sources import Source
from tokpack.stages.read.streams import BOM, check_growth, decompress, open_hashing
from tokpack.stages.read.tables import dataset_blocks, table_blocks
from tokpack.stages.read.trees import conversations
from tokpack.stages.read.unchanged import unchanged

BLOCK_BYTES = 8 << 20


@frozen
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
    input_bytes: int = 0
    """What was read of the source for it, as it is stored: compressed where the source is."""
    parts: tuple[Block, ...] = ()
    """Of a block that was joined: what it was joined of, in order; `data` is all of theirs."""

    def numbers(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Of each row: its place among all rows, from which its `doc_id` follows."""
        if self.parts:
            return np.concatenate([part.numbers() for part in self.parts])
        return np.arange(self.first_doc_id, self.first_doc_id + self.rows, dtype=np.int64)

    def sources(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Of each row: the number of its source."""
        parts = self.parts or (self,)
        return np.repeat(np.array([part.source for part in parts], np.int32), [part.rows for part in parts])

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
        row = before = source.bytes_read = 0
        for rows, lines, offset, data in chunks(source, block_bytes):
            read, before = source.bytes_read - before, source.bytes_read
            yield Block(index, number, doc_id, row, rows, lines, data, offset, read)
            index, doc_id, row = index + 1, doc_id + rows, row + lines


def join(blocks: Sequence[Block]) -> Block:
    """Blocks of small files as one, whose rows can be read together: all of lines, or all of tables of one
    schema."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    rows, lines = sum(block.rows for block in blocks), sum(block.lines for block in blocks)
    data: bytes | pa.Table
    if isinstance(first.data, bytes):
        data = b"".join(
            block.data if block.data.endswith(b"\n") or not block.data else block.data + b"\n"
            for block in blocks
        )
    else:
        data = pa.concat_tables([block.data for block in blocks])
    return replace(first, rows=rows, lines=lines, data=data, parts=tuple(blocks))


def line_numbers(block: Block) -> np.ndarray[Any, np.dtype[np.int64]]:
    """1-based row number in the source of each of the block's rows: for line formats, blank lines count."""
    if block.parts:
        return np.concatenate([line_numbers(part) for part in block.parts])
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


# Files to chunks


def chunks(source: Source, block_bytes: int) -> Iterator[Chunk]:
    """A source in pieces that end at a row's end; its `sha256` is set after the last."""
    with explained(source), unchanged(source):
        made = _rows_as_they_are(source, block_bytes)
        yield from _tree_chunks(made, source, block_bytes) if source.config.format in TREES else made


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """Turn what the system or Arrow says of a file that cannot be read into a DataError."""
    with reading(source.path):
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(
                f"cannot read {source.container}{source.compression}: {error}",
                where=source.path,
                hint=_next_step(error),
            ) from None


def _next_step(error: Exception) -> str:
    """The hint for what Arrow says of a file: not all of it is damage."""
    text = str(error)
    if isinstance(error, pa.ArrowNotImplementedError) or "List index overflow" in text:
        return "Arrow does not read this form: write it again in smaller row groups, or as JSONL"
    if "too deeply nested" in text or "recursion depth" in text:
        return "Arrow reads no columns nested so deep: write it as JSONL"
    if "crypt" in text:
        return "decrypt the file first"
    return "the file is damaged or cut off: fetch it again, or take it out of the inputs"


def _rows_as_they_are(source: Source, block_bytes: int) -> Iterator[Chunk]:
    if source.container == "dataset":
        yield from _table_chunks(dataset_blocks(source, block_bytes))
    else:
        yield from _file_chunks(source, block_bytes)


def _tree_chunks(made: Iterator[Chunk], source: Source, block_bytes: int) -> Iterator[Chunk]:
    """Conversations, as lines of JSON, of rows that are messages of trees. The file is in memory whole."""
    blocks = (Block(0, 0, 0, 0, rows, lines, data, offset) for rows, lines, offset, data in made)
    rows = [row for block in blocks for row in rows_of(block, source)]
    lines: list[bytes] = []
    size = offset = 0
    for before, line in enumerate(conversations(rows, every=source.config.format == "tree_paths")):
        if len(line) > source.max_line:
            raise too_long(source, before)
        lines.append(line + b"\n")
        size += len(lines[-1])
        check_growth(offset + size, source)
        if size >= block_bytes:
            yield len(lines), len(lines), offset, b"".join(lines)
            lines, size, offset = [], 0, offset + size
    if lines:
        yield len(lines), len(lines), offset, b"".join(lines)


def _file_chunks(source: Source, block_bytes: int) -> Iterator[Chunk]:
    with open_hashing(source) as raw:
        stream = decompress(raw, source)
        if source.container in ("json", "jsonl", "text"):
            lines = as_lines(stream, source.path) if source.container == "json" else stream
            made = line_chunks(lines, source, block_bytes)
        else:
            made = _table_chunks(table_blocks(stream, source, block_bytes))
        for chunk in made:
            source.bytes_read = raw.bytes_read
            yield chunk
        source.sha256 = raw.hexdigest()


def _table_chunks(tables: Iterator[pa.Table]) -> Iterator[Chunk]:
    for table in tables:
        yield table.num_rows, table.num_rows, 0, table
