"""Parquet files, opened so that nothing in their footers ends the process.

pyarrow lets no exception of C++ through where it hands out what a footer says of a column: of one that is
encrypted under a footer that is not, or packed by a codec it does not know, the process dies of SIGABRT. So
what is said of columns is read here, in thrift's compact protocol:

    file       4 (row groups): a list of
    row group  1 (columns): a list of
    column     3: `StoredColumn`, 8: how it is encrypted
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import pyarrow as pa

from tokpack.files.thrift import (
    BYTES,
    INTEGERS,
    LIST,
    STRUCTURE,
    field_head,
    list_head,
    signed,
    skipped,
    varint,
)

ROW_GROUPS, COLUMNS, ABOUT, ENCRYPTION = 4, 1, 3, 8
END = 8
"""Bytes after the footer: its length, and `PAR1`."""

Item = TypeVar("Item")


class StoredColumn(NamedTuple):
    """What a footer says of a column in a row group: 0 and nothing where it is silent."""

    path: str
    values: int
    unpacked: int
    """Bytes of its pages once they are unpacked."""
    packed: int
    pages_at: int
    """Where its pages of data begin in the file."""
    has_dictionary: bool
    codec: int
    encodings: tuple[int, ...]
    encrypted: bool


StoredGroup = tuple[StoredColumn, ...]


def open_parquet(file: Path | str | IO[bytes], **options: Any) -> Any:
    """A `pyarrow.parquet.ParquetFile`; what it says of columns is to be had from `row_group_columns` alone.

    Raises OSError and pa.ArrowException as Arrow does, and pa.ArrowInvalid for encrypted columns, names that
    are not UTF-8, and row groups that have not the columns of the schema.
    """
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file, **options)
    except UnicodeDecodeError:
        raise pa.ArrowInvalid("the name of a column is not UTF-8") from None
    try:
        for number, group in enumerate(row_group_columns(file)):
            if len(group) != opened.metadata.num_columns:
                raise pa.ArrowInvalid(f"row group {number} has not the columns of the file")
            if hidden := [place for place, column in enumerate(group) if column.encrypted]:
                raise pa.ArrowInvalid(f"the column {opened.schema.column(hidden[0]).path} is encrypted")
    except BaseException:
        opened.close()
        raise
    return opened


def row_group_columns(file: Path | str | IO[bytes]) -> tuple[StoredGroup, ...]:
    """The columns of each row group, of a file that Arrow opens."""
    if not isinstance(file, Path | str):
        return _groups(_footer(file))
    with Path(file).open("rb") as stream:
        return _groups(_footer(stream))


def _footer(stream: IO[bytes]) -> bytes:
    end = stream.seek(0, os.SEEK_END)
    stream.seek(end - END)
    size = int.from_bytes(stream.read(4), "little")
    stream.seek(end - END - size)
    return stream.read(size)


@lru_cache(maxsize=2)
def _groups(footer: bytes) -> tuple[StoredGroup, ...]:
    try:
        return _each(footer, 0, ROW_GROUPS, _group)[0]
    except (IndexError, ValueError):
        raise pa.ArrowInvalid("the footer cannot be read") from None


def _each(
    footer: bytes, at: int, wanted: int, read: Callable[[bytes, int], tuple[Item, int]]
) -> tuple[tuple[Item, ...], int]:
    """The items of the list that is a field of the structure at this place, and where the structure ends; as
    `read` gives an item and where that ends."""
    number, found = 0, list[Item]()
    while footer[at]:
        number, kind, at = field_head(footer, at, number)
        if (number, kind) == (wanted, LIST):
            count, _, at = list_head(footer, at)
            for _ in range(count):
                item, at = read(footer, at)
                found.append(item)
        else:
            at = skipped(footer, at, kind)
    return tuple(found), at + 1


def _group(footer: bytes, at: int) -> tuple[StoredGroup, int]:
    return _each(footer, at, COLUMNS, _column)


def _column(footer: bytes, at: int) -> tuple[StoredColumn, int]:
    number, encrypted = 0, False
    about: dict[int, Any] = {}
    while footer[at]:
        number, kind, at = field_head(footer, at, number)
        encrypted |= (number, kind) == (ENCRYPTION, STRUCTURE)
        if (number, kind) == (ABOUT, STRUCTURE):
            about, at = _about(footer, at)
        else:
            at = skipped(footer, at, kind)
    values, unpacked, packed, pages_at = (about.get(number, 0) for number in (5, 6, 7, 9))
    return StoredColumn(
        path=b".".join(about.get(3, ())).decode("utf-8", "backslashreplace"),
        values=values,
        unpacked=unpacked,
        packed=packed,
        pages_at=pages_at,
        has_dictionary=11 in about,
        codec=about.get(4, 0),
        encodings=tuple(about.get(2, ())),
        encrypted=encrypted,
    ), at + 1


def _about(footer: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Numbers, and lists of numbers and texts, by the numbers of their fields."""
    number = 0
    found: dict[int, Any] = {}
    while footer[at]:
        number, kind, at = field_head(footer, at, number)
        if kind in INTEGERS:
            found[number], at = signed(footer, at)
        elif kind == LIST and number in (2, 3):
            found[number], at = _items(footer, at, INTEGERS if number == 2 else (BYTES,))
        else:
            at = skipped(footer, at, kind)
    return found, at + 1


def _items(footer: bytes, at: int, kinds: tuple[int, ...]) -> tuple[list[Any], int]:
    count, kind, at = list_head(footer, at)
    if count and kind not in kinds:
        raise ValueError(f"a list of the kind {kind}")
    items: list[Any] = []
    for _ in range(count):
        if kind == BYTES:
            size, start = varint(footer, at)
            at = start + size
            items.append(footer[start:at])
        else:
            item, at = signed(footer, at)
            items.append(item)
    return items, at
