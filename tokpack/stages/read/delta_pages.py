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
from tokpack.stages.read.sources import Source
from tokpack.stages.read.streams import check_growth

NAME, NUMBER = "DELTA_BYTE_ARRAY", 7
LENGTH_BYTES = 8
PLAIN, SECOND = 0, 3
"""Types of pages of data."""
MOST_DEPTH = 8
"""Of structures in a page's header."""
CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd", "LZ4": "lz4_raw"}

Header = dict[int, Any]
Lengths = np.ndarray[Any, np.dtype[np.int64]]


class Sizes(NamedTuple):
    """Bytes of the texts of a column in a row group: all together, and of the longest."""

    total: int
    longest: int


def text_sizes(stream: IO[bytes], column: Any, chunk: Any, source: Source) -> Sizes:
    """`column` and `chunk`: schema and metadata of it, as pyarrow has them.

    Raises DataError for pages that cannot be read, or unpack to more than a file may.
    """
    here = stream.tell()
    stream.seek(chunk.data_page_offset)
    data = stream.read(chunk.total_compressed_size)
    stream.seek(here)
    total = longest = 0
    try:
        for header, body in _pages(data):
            lengths = _lengths(header, body, column, chunk.compression, source)
            if len(lengths):
                total, longest = total + int(lengths.sum()), max(longest, int(lengths.max()))
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, OSError, pa.ArrowException):
        raise DataError(
            f"the lengths of the texts in the column {chunk.path_in_schema} cannot be read",
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


def _lengths(header: Header, body: bytes, column: Any, codec: str, source: Source) -> Lengths:
    """Bytes of each text of a page; none of a page in another encoding."""
    second = header[1] == SECOND
    about = header.get(8 if second else 5)
    if header[1] not in (PLAIN, SECOND) or about is None or about[4 if second else 2] != NUMBER:
        return np.empty(0, np.int64)
    check_growth(max(header[2], about[1] * LENGTH_BYTES), source)
    levels = about.get(5, 0) + about.get(6, 0) if second else 0
    packed = not second or about.get(7, True)
    body = body[levels:]
    if codec != "UNCOMPRESSED" and packed:
        body = _unpacked(body, header[2] - levels, codec)
    at = 0
    if not second:
        for most in (column.max_repetition_level, column.max_definition_level):
            at += 4 + int.from_bytes(body[at : at + 4], "little") if most else 0
    prefixes, at = _delta_packed(body, at, about[1])
    rests, at = _delta_packed(body, at, about[1])
    return np.maximum(prefixes, 0) + np.maximum(rests, 0)


def _unpacked(body: bytes, size: int, codec: str) -> bytes:
    """LZ4 of old files has both sizes before it."""
    if codec == "LZ4" and body[:8] == size.to_bytes(4, "big") + (len(body) - 8).to_bytes(4, "big"):
        body = body[8:]
    return bytes(pa.decompress(body, size, CODECS[codec], asbytes=True))


def _delta_packed(data: bytes, at: int, most: int) -> tuple[Lengths, int]:
    """Numbers in DELTA_BINARY_PACKED, and where they end. Raises ValueError for more than `most`."""
    block, at = _varint(data, at)
    parts, at = _varint(data, at)
    count, at = _varint(data, at)
    first, at = _signed(data, at)
    if count > most or not parts or not block // parts > 0:
        raise ValueError(f"{count} lengths in a page of {most} values")
    found, left, each = [np.array([first][:count], np.int64)], count - 1, block // parts
    while left > 0:
        least, at = _signed(data, at)
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


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _structure(data: bytes, at: int, depth: int = 0) -> tuple[Header, int]:
    """A structure of thrift's compact protocol, by the numbers of its fields."""
    found: Header = {}
    number = 0
    while data[at]:
        byte, at = data[at], at + 1
        step, kind = byte >> 4, byte & 15
        if not step:
            step, at = _signed(data, at)
            number = 0
        number += step
        found[number], at = _value(data, at, kind, depth)
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _signed(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        size, at = _varint(data, at)
        return None, at + size
    if kind == 12 and depth < MOST_DEPTH:
        return _structure(data, at, depth + 1)
    raise ValueError(f"no kind {kind} in the header of a page")
