"""How long the texts of a Parquet column of DELTA_BYTE_ARRAY are, from the lengths in its pages.

Each text is so many bytes of the one before it, and a rest. So a page of 1 kB may stand for gigabytes, and
no number in the file's metadata says so. Only lengths are read here; no text is made:

    page   header (thrift) | levels | prefix lengths | lengths of rests | rests
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from tokpack.errors import DataError
from tokpack.files.parquet_files import StoredColumn
from tokpack.files.thrift import (
    BOOLEANS,
    BYTE,
    BYTES,
    DOUBLE,
    INTEGERS,
    STRUCTURE,
    field_head,
    signed,
    skipped,
    varint,
)
from tokpack.stages.read.sources import Source
from tokpack.stages.read.streams import check_growth

NUMBER = 7
"""Of the encoding DELTA_BYTE_ARRAY."""
LENGTH_BYTES = 8
PLAIN, SECOND = 0, 3
"""Types of pages of data."""
MOST_DEPTH = 8
"""Of structures in a page's header."""
UNPACKED, OLD_LZ4 = 0, 5
CODECS = {1: "snappy", 2: "gzip", 4: "brotli", OLD_LZ4: "lz4_raw", 6: "zstd", 7: "lz4_raw"}

Header = dict[int, Any]
Lengths = np.ndarray[Any, np.dtype[np.int64]]


class Sizes(NamedTuple):
    """Bytes of the texts of a column in a row group: all together, and of the longest."""

    total: int
    longest: int


def text_sizes(stream: IO[bytes], kind: Any, column: StoredColumn, source: Source) -> Sizes:
    """`kind`: the column's schema, as pyarrow has it.

    Raises DataError for pages that cannot be read, or unpack to more than a file may.
    """
    here = stream.tell()
    stream.seek(column.pages_at)
    data = stream.read(column.packed)
    stream.seek(here)
    total = longest = 0
    try:
        for header, body in _pages(data):
            lengths = _lengths(header, body, kind, column.codec, source)
            if len(lengths):
                total, longest = total + int(lengths.sum()), max(longest, int(lengths.max()))
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, OSError, pa.ArrowException):
        raise DataError(
            f"the lengths of the texts in the column {column.path} cannot be read",
            where=source.path,
            hint="is the file whole? Write it again, with dictionaries or plain texts",
        ) from None
    return Sizes(total, longest)


def _pages(data: bytes) -> Iterator[tuple[Header, bytes]]:
    at = 0
    while at < len(data):
        header, at = _structure(data, at)
        size = header[3]
        yield header, data[at : at + size]
        at += max(0, size)


def _lengths(header: Header, body: bytes, kind: Any, codec: int, source: Source) -> Lengths:
    """Bytes of each text of a page; none of a page in another encoding."""
    second = header[1] == SECOND
    about = header.get(8 if second else 5)
    if header[1] not in (PLAIN, SECOND) or about is None or about[4 if second else 2] != NUMBER:
        return np.empty(0, np.int64)
    check_growth(max(header[2], about[1] * LENGTH_BYTES), source)
    levels = about.get(5, 0) + about.get(6, 0) if second else 0
    packed = not second or about.get(7, True)
    body = body[levels:]
    if codec != UNPACKED and packed:
        body = _unpacked(body, header[2] - levels, codec)
    at = 0
    if not second:
        for most in (kind.max_repetition_level, kind.max_definition_level):
            at += 4 + int.from_bytes(body[at : at + 4], "little") if most else 0
    prefixes, at = _delta_packed(body, at, about[1])
    rests, at = _delta_packed(body, at, about[1])
    return np.maximum(prefixes, 0) + np.maximum(rests, 0)


def _unpacked(body: bytes, size: int, codec: int) -> bytes:
    """LZ4 of old files has both sizes before it."""
    if codec == OLD_LZ4 and body[:8] == size.to_bytes(4, "big") + (len(body) - 8).to_bytes(4, "big"):
        body = body[8:]
    return bytes(pa.decompress(body, size, CODECS[codec], asbytes=True))


def _delta_packed(data: bytes, at: int, most: int) -> tuple[Lengths, int]:
    """Numbers in DELTA_BINARY_PACKED, and where they end. Raises ValueError for more than `most`."""
    block, at = varint(data, at)
    parts, at = varint(data, at)
    count, at = varint(data, at)
    first, at = signed(data, at)
    if count > most or not parts or not block // parts > 0:
        raise ValueError(f"{count} lengths in a page of {most} values")
    found, left, each = [np.array([first][:count], np.int64)], count - 1, block // parts
    while left > 0:
        least, at = signed(data, at)
        widths, at = data[at : at + parts], at + parts
        for width in widths:
            taken = min(each, left)
            if taken <= 0:
                break
            bits = np.unpackbits(
                np.frombuffer(data, np.uint8, each * width // 8, at), count=taken * width, bitorder="little"
            )
            powers = np.int64(1) << np.arange(width, dtype=np.int64)
            found.append(bits.reshape(taken, width).astype(np.int64) @ powers + least)
            left, at = left - taken, at + each * width // 8
    return np.cumsum(np.concatenate(found)).astype(np.int32).astype(np.int64), at


def _structure(data: bytes, at: int, depth: int = 0) -> tuple[Header, int]:
    """A structure of thrift's compact protocol, by the numbers of its fields."""
    found: Header = {}
    number = 0
    while data[at]:
        number, kind, at = field_head(data, at, number)
        found[number], at = _value(data, at, kind, depth)
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """Numbers, answers and structures as they are, nothing for other values."""
    if kind in BOOLEANS:
        return kind == 1, at
    if kind in INTEGERS:
        return signed(data, at)
    if kind == STRUCTURE and depth < MOST_DEPTH:
        return _structure(data, at, depth + 1)
    if kind in (BYTE, DOUBLE, BYTES):
        return None, skipped(data, at, kind)
    raise ValueError(f"no kind {kind} in the header of a page")
