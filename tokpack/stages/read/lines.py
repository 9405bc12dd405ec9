"""Lines: a stream of bytes, or a range of a file's bytes, in pieces that end at a line's end.

A range holds the lines that *begin* in it: the first is looked for behind the range's start, and the last is
read to its end. So neighbors share no line and lose none, wherever the file is cut, and nobody has to read
what is before. A range in the middle of a long line is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

import numpy as np
import pyarrow as pa

from tokpack.errors import DataError
from tokpack.stages.read.sources import Source
from tokpack.stages.read.streams import BOM

NEWLINE, SPACE = b"\n "
WHITE = np.isin(np.arange(256), [*b" \t\r\x0b\x0c"])
INDENT = 64
"""White space that lines may begin with on the fast path."""
READ_BYTES = 1 << 20
"""Of a range's last line, at a time."""

Chunk = tuple[int, int, int, "bytes | pa.Table"]
"""Rows, lines (blank ones included), byte offset, data."""


def line_range(stream: IO[bytes], source: Source, start: int, end: int) -> Chunk:
    """The lines of a seekable stream that begin at a byte from `start` to before `end`.

    Raises DataError for a line of more than `source.max_line` bytes, and holds not much more of it.
    """
    before = min(start, 1)
    stream.seek(start - before)
    data = stream.read(end - start + before)
    if start:
        first = data.find(b"\n", 0, end - start) + 1
        if not first:
            return 0, 0, start, b""
    else:
        first = len(BOM) if data.startswith(BOM) else 0
    start += first - before
    data = _to_the_end(stream, source, start, data, first)
    if len(data) > source.max_line:
        _check_lengths(data, source, lambda: lines_before(stream, start))
    return counted(data, start)


def _to_the_end(stream: IO[bytes], source: Source, start: int, data: bytes, first: int) -> bytes:
    """`data` from `first` on, which is the byte `start` of the file, with the rest of its last line; without
    one that is blank and the end of the file."""
    if data.endswith(b"\n"):
        return data[first:]
    last = max(data.rfind(b"\n") + 1, first)
    parts: list[bytes | memoryview] = [memoryview(data)[first:]]
    size, cut = len(data) - last, 0
    while not cut and size <= source.max_line and (more := stream.read(min(READ_BYTES, source.max_line + 1))):
        cut = more.find(b"\n") + 1
        parts.append(more[:cut] if cut else more)
        size += len(parts[-1])
    if size - bool(cut) > source.max_line:
        raise too_long(source, lines_before(stream, start + last - first))
    whole = b"".join(parts)
    return whole if cut or whole[last - first :].strip() else whole[: last - first]


def lines_before(stream: IO[bytes], place: int) -> int:
    """Lines of a file that begin before the byte `place`, where one begins: for messages alone."""
    stream.seek(0)
    count = 0
    while place > 0 and (data := stream.read(min(READ_BYTES, place))):
        count, place = count + data.count(b"\n"), place - len(data)
    return count


def line_chunks(stream: IO[bytes], source: Source, block_bytes: int) -> Iterator[Chunk]:
    """Whole lines, about `block_bytes` at a time; a longer line is a block of its own.

    Raises DataError for a line of more than `source.max_line` bytes, and holds not much more of it.
    """
    head = stream.read(3)
    rest, offset = ([], 3) if head == BOM else ([head], 0)
    held = line = 0
    while data := stream.read(min(block_bytes, source.max_line + 1)):
        cut = data.rfind(b"\n") + 1
        held += len(data)
        if not cut:
            rest.append(data)
            if held > source.max_line:
                raise too_long(source, line)
            continue
        chunk = b"".join([*rest, data[:cut]])
        rest, held = [data[cut:]], len(data) - cut
        found = counted(chunk, offset)
        if len(chunk) > source.max_line:
            _check_lengths(chunk, source, partial(int, line))
        line += found[1]
        yield found
        offset += len(chunk)
    last = b"".join(rest)
    if last.strip():
        yield counted(last, offset)


def _check_lengths(chunk: bytes, source: Source, before: Callable[[], int]) -> None:
    ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == NEWLINE)
    longer = np.flatnonzero(np.diff(ends, prepend=-1) > source.max_line + 1)
    if len(longer):
        raise too_long(source, before() + int(longer[0]))


def too_long(source: Source, before: int) -> DataError:
    return DataError(
        f"a line of more than {source.max_line >> 20:,} MB",
        where=f"{source.path}:{before + 1}",
        hint="is the file what its name says? --max-line MB allows longer lines",
    )


def counted(chunk: bytes, offset: int) -> Chunk:
    """Lines with something in them, lines in all. A line that begins with white space is looked at."""
    characters = np.frombuffer(chunk, np.uint8)
    starts = np.append(0, np.flatnonzero(characters == NEWLINE) + 1)
    starts = starts[starts < len(chunk)]
    blank = _blank(chunk, characters, starts[characters[starts] <= SPACE])
    return len(starts) - blank, len(starts), offset, chunk


def _blank(chunk: bytes, characters: Any, at: Any) -> int:
    """How many of the lines that begin `at` these places hold white space alone."""
    last, blank = len(chunk) - 1, 0
    for _ in range(INDENT):
        over = (characters[at] == NEWLINE) | (WHITE[characters[at]] & (at == last))
        blank += int(over.sum())
        at = at[~over & WHITE[characters[at]]] + 1
        if not len(at):
            return blank
    ends = [chunk.find(b"\n", start) for start in at.tolist()]
    whole = zip(at.tolist(), ends, strict=True)
    return blank + sum(not chunk[start : end if end >= 0 else None].strip() for start, end in whole)
