"""Items: the input as pieces of work, each a small description that any worker opens by itself.

    lines    a range of bytes of a file of lines: the lines that begin in it
    groups   row groups of a Parquet file
    files    small files of any kind, whole, as many as fill a block
    stream   an input that can only be read from its start: gzip, zstd, CSV, a JSON array, a pipe, trees

An item says nothing of what is before it: its documents are numbered from 0, and its rows from 0 in each of
its sources. What they are among all follows from the counts of the items before, when all are read. How the
input is cut depends on the inputs and on the size of a block alone, never on who reads it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import field, replace
from math import ceil
from pathlib import Path
from typing import Literal

import xxhash

from tokpack.errors import reading
from tokpack.frozen import frozen
from tokpack.settings.config import TREES
from tokpack.stages.read.blocks import Block, chunks, explained
from tokpack.stages.read.lines import line_range, lines_before
from tokpack.stages.read.parquet_rows import row_groups
from tokpack.stages.read.sources import Source
from tokpack.stages.read.tables import group_tables
from tokpack.stages.read.unchanged import Stamp, changed, stamp_of, unchanged

MOST_FILES = 2048
"""That share an item."""
LINES = ("jsonl", "text")
"""Containers that are cut anywhere, at the next line."""
OTHERS, COMPRESSED = 8, 64
"""A file in another container counts for so many times its size, since it may be larger in memory."""


@frozen
class Extent:
    """A stretch of one source: bytes of a file of lines, or row groups. Without an end: all of it."""

    source: int
    start: int = 0
    end: int | None = None
    stamp: Stamp = ()
    """Of the file when it was cut: what is read must be the same."""


@frozen
class Item:
    index: int
    kind: Literal["lines", "groups", "files", "stream"]
    extents: tuple[Extent, ...]


@frozen
class Reading:
    """What is read of an item at a time: blocks whose documents are numbered from 0, one after another."""

    blocks: tuple[Block, ...] = ()
    input_bytes: int = 0
    last: bool = False
    """Whether the item ends here."""
    sha256: dict[int, str] = field(default_factory=dict)
    """Of the sources that were read whole; the last reading of an item has them."""

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)

    @property
    def lines(self) -> dict[int, int]:
        """Source -> its rows, blank lines included."""
        found: dict[int, int] = {}
        for block in self.blocks:
            found[block.source] = found.get(block.source, 0) + block.lines
        return found

    def digest(self) -> str:
        if len(self.blocks) == 1:
            return self.blocks[0].digest()
        return xxhash.xxh3_64_hexdigest("".join(block.digest() for block in self.blocks).encode())


# From sources to items


def cut(sources: Sequence[Source], block_bytes: int, apart: Sequence[Hashable] = ()) -> list[Item]:
    """All input, in order. Small files share an item where they are equal in `apart` (one entry a source)."""
    items: list[Item] = []
    held: list[int] = []
    size = 0.0

    def share() -> None:
        nonlocal held, size
        if held:
            items.append(Item(len(items), "files", tuple(map(Extent, held))))
        held, size = [], 0.0

    for number, source in enumerate(sources):
        weight = _weight(source, block_bytes)
        if weight <= 1:
            full = size + weight > 1 or len(held) >= MOST_FILES
            if held and (full or (apart and apart[held[-1]] != apart[number])):
                share()
            held.append(number)
            size += weight
            continue
        share()
        for kind, extent in _large(number, source, block_bytes):
            items.append(Item(len(items), kind, (extent,)))
    share()
    return items


def _weight(source: Source, block_bytes: int) -> float:
    """The part of a block that a whole file takes; more than 1 where it does not share one."""
    if not _is_local_file(source) or source.size_bytes is None or source.config.format in TREES:
        return 2
    times = COMPRESSED if source.compression else 1 if source.container in LINES else OTHERS
    return times * source.size_bytes / block_bytes


def _is_local_file(source: Source) -> bool:
    return source.path != "-" and "://" not in source.path and source.container != "dataset"


def _large(
    number: int, source: Source, block_bytes: int
) -> Iterator[tuple[Literal["lines", "groups", "stream"], Extent]]:
    if _is_local_file(source) and not source.compression and source.config.format not in TREES:
        stamp = stamp_of(source)
        if source.container in LINES:
            size = source.size_bytes or 0
            pairs = ceil(
                size / (2 * block_bytes)
            )  # of equal blocks: none is left over for one of two workers
            step = max(3, ceil(size / (2 * pairs)))  # a byte order mark stays whole
            for start in range(0, size, step):
                yield "lines", Extent(number, start, min(start + step, size), stamp)
            return
        if source.container == "parquet" and (sizes := row_groups(source, 2 * block_bytes)):
            for start, end in _runs(sizes, block_bytes):
                yield "groups", Extent(number, start, end, stamp)
            return
    yield "stream", Extent(number, stamp=stamp_of(source))


def _runs(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Neighbors that are at most `most` together, or one alone."""
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and total + size > most:
            yield start, place
            start, total = place, 0
        total += size
    yield start, len(sizes)


# From items to blocks


def read_item(item: Item, sources: Sequence[Source], block_bytes: int) -> Iterator[Reading]:
    """The item's rows, at least one reading. Raises DataError as `blocks.chunks` does, and where a source is
    no longer what it was when it was cut."""
    digests: dict[int, str] = {}
    held = None
    for found in _READERS[item.kind](item, sources, block_bytes, digests):
        if held is not None:
            yield held
        held = found
    yield replace(held or Reading(), last=True, sha256=digests)


def bytes_of(item: Item, sources: Sequence[Source], block_bytes: int) -> int:
    """Of input that an item stands for, as they are stored; those of a block where that is not known."""
    if item.kind == "lines":
        return sum((extent.end or 0) - extent.start for extent in item.extents)
    if item.kind == "groups":
        return block_bytes
    return sum(sources[extent.source].size_bytes or block_bytes for extent in item.extents)


def rows_before(item: Item, sources: Sequence[Source]) -> int:
    """Rows of the item's source before it, blank lines included: for messages alone."""
    first = item.extents[0]
    source = sources[first.source]
    if item.kind == "lines":
        with reading(source.path), Path(source.path).open("rb") as file:
            return lines_before(file, first.start - 1) + 1 if first.start else 0
    if item.kind == "groups":
        import pyarrow.parquet as pq

        found = pq.ParquetFile(source.path).metadata
        return sum(found.row_group(group).num_rows for group in range(first.start))
    return 0


def _lines(
    item: Item, sources: Sequence[Source], block_bytes: int, digests: dict[int, str]
) -> Iterator[Reading]:
    [extent] = item.extents
    source, end = sources[extent.source], extent.end or 0
    with reading(source.path), unchanged(source, extent.stamp), Path(source.path).open("rb") as file:
        rows, lines, offset, data = line_range(file, source, extent.start, end)
        size = end - extent.start
        block = Block(0, extent.source, 0, 0, rows, lines, data, offset, size)
        yield Reading((block,) if data else (), size)


def _groups(
    item: Item, sources: Sequence[Source], block_bytes: int, digests: dict[int, str]
) -> Iterator[Reading]:
    [extent] = item.extents
    source, row = sources[extent.source], 0
    with explained(source), unchanged(source, extent.stamp), Path(source.path).open("rb") as file:
        before = 0
        for table in group_tables(file, source, range(extent.start, extent.end or 0), block_bytes):
            read, before = max(0, file.tell() - before), file.tell()
            block = Block(0, extent.source, 0, row, table.num_rows, table.num_rows, table, 0, read)
            yield Reading((block,), read)
            row += table.num_rows


def _stream(
    item: Item, sources: Sequence[Source], block_bytes: int, digests: dict[int, str]
) -> Iterator[Reading]:
    [extent] = item.extents
    source = sources[extent.source]
    with unchanged(source, extent.stamp):
        for block in _blocks(extent.source, source, block_bytes, digests):
            yield Reading((block,), block.input_bytes)


def _files(
    item: Item, sources: Sequence[Source], block_bytes: int, digests: dict[int, str]
) -> Iterator[Reading]:
    held: list[Block] = []
    rows = size = read = 0
    for extent in item.extents:
        source = sources[extent.source]
        whole = source.container in LINES and not source.compression
        blocks = _small(extent.source, source, digests) if whole else None
        for block in blocks or _blocks(extent.source, source, block_bytes, digests):
            held.append(replace(block, first_doc_id=rows))
            rows, read = rows + block.rows, read + block.input_bytes
            size += len(block.data) if isinstance(block.data, bytes) else block.data.nbytes
            if size >= block_bytes:
                yield Reading(tuple(held), read)
                held, rows, size, read = [], 0, 0, 0
    if held:
        yield Reading(tuple(held), read)


def _small(number: int, source: Source, digests: dict[int, str]) -> list[Block]:
    """A file of lines at one stroke."""
    with reading(source.path), Path(source.path).open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        data = file.readall()
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or not (
        len(data) == before.st_size == source.size_bytes
    ):
        raise changed(source)
    digests[number] = hashlib.sha256(data).hexdigest()
    rows, lines, offset, data = line_range(io.BytesIO(data), source, 0, len(data))
    return [Block(0, number, 0, 0, rows, lines, data, offset, before.st_size)] if data else []


def _blocks(number: int, source: Source, block_bytes: int, digests: dict[int, str]) -> Iterator[Block]:
    """All of a source, from its start."""
    source = replace(source)
    row = before = source.bytes_read = 0
    for rows, lines, offset, data in chunks(source, block_bytes):
        read, before = source.bytes_read - before, source.bytes_read
        yield Block(0, number, 0, row, rows, lines, data, offset, read)
        row += lines
    if source.sha256 is not None:
        digests[number] = source.sha256


_READERS = {"lines": _lines, "groups": _groups, "files": _files, "stream": _stream}
