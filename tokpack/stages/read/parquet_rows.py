"""Parquet files -> record batches of bounded memory.

A page of texts may name each by a number in a dictionary, so that a file of 1 MB stands for 100 GB. What a
row group can grow to is at most its values times the longest text of its dictionaries, which one row shows.
Where that is too much, texts are read as dictionaries, which `expansion` cuts. Texts that are told by
those before them are added up by their lengths (`delta_pages`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from tokpack.errors import DataError
from tokpack.files.parquet_files import StoredColumn, StoredGroup, open_parquet, row_group_columns
from tokpack.stages.read import delta_pages
from tokpack.stages.read.expansion import LEAST_BYTES, grows
from tokpack.stages.read.sources import Source
from tokpack.stages.read.streams import check_columns, check_growth

BATCH_ROWS = 4096
MOST_BYTES = 1 << 30
"""What the texts of a row group may grow to before they are read as dictionaries."""
AT_ONCE = 1 << 26
"""Bytes of texts of a batch, where each is at most as long as the longest."""


def row_groups(source: Source, most: int) -> list[int]:
    """Bytes of each row group of a local file, decoded; none where the file is better read as a stream: when
    it cannot be opened, a group is larger than `most`, or values refer to others and may grow."""
    try:
        with open_parquet(source.path) as file:
            groups = range(file.num_row_groups)
            sizes = [file.metadata.row_group(group).total_byte_size for group in groups]
            columns = row_group_columns(source.path)
            odd = any(map(grows, file.schema_arrow.types)) or any(
                next(_texts(file, columns[group]), None) for group in groups
            )
    except (OSError, pa.ArrowException):
        return []
    return [] if odd or not sizes or max(sizes) > most else sizes


def parquet_batches(
    stream: IO[bytes], source: Source, groups: range | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of all row groups, or of some, in order. Raises DataError for a decompression bomb."""
    import pyarrow.parquet as pq

    lazily: dict[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 16}
    file = open_parquet(stream, **(lazily if source.head_only else {}))
    check_columns(file.metadata.num_columns, source.path)
    columns = row_group_columns(stream)
    unpacked = 0
    for group in range(file.num_row_groups) if groups is None else groups:
        unpacked += sum(max(0, column.unpacked) for column in columns[group])
        check_growth(unpacked, source)
        _check_lists(file, columns[group], source)
        rows = _rows_at_once(stream, file, columns[group], source)
        suspects = [
            column.path
            for column in _texts(file, columns[group])
            if _may_grow(stream, file, group, column, lazily)
        ]
        reader = (
            pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=suspects, **lazily)
            if suspects
            else file
        )
        # Arrow's threads that still hold a Python file when a process ends can hang or abort it.
        yield from reader.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)


def _with_schema(file: Any, group: StoredGroup) -> Iterator[tuple[Any, StoredColumn]]:
    """Each column of values, with its schema."""
    return ((file.schema.column(number), column) for number, column in enumerate(group))


def _check_lists(file: Any, group: StoredGroup, source: Source) -> None:
    """Values of one row may be as many as a row group has."""
    for kind, column in _with_schema(file, group):
        if kind.max_repetition_level:
            check_growth(column.values * LEAST_BYTES, source)


def _rows_at_once(stream: IO[bytes], file: Any, group: StoredGroup, source: Source) -> int:
    """Rows of a batch: few where texts that are told by those before them are long.

    Raises DataError for a text beyond `source.max_line`, and for more than a file may grow to.
    """
    rows = BATCH_ROWS
    for kind, column in _with_schema(file, group):
        if delta_pages.NUMBER not in column.encodings or _most(column) <= MOST_BYTES:
            continue
        total, longest = delta_pages.text_sizes(stream, kind, column, source)
        check_growth(total + column.values * LEAST_BYTES, source)
        if longest > source.max_line:
            raise DataError(
                f"a text of {longest:,} bytes in the column {column.path}",
                where=source.path,
                hint="is the file what its name says? --max-line MB allows longer rows",
            )
        if total > MOST_BYTES and kind.max_repetition_level:
            rows = 1
        rows = min(rows, max(1, AT_ONCE // max(longest, 1)))
    return rows


def _most(column: StoredColumn) -> int:
    """Bytes of its texts, were each as long as all that is stored."""
    return max(0, column.values) * max(0, column.unpacked)


def _texts(file: Any, group: StoredGroup) -> Iterator[StoredColumn]:
    """Columns of texts with a dictionary, that are large enough to be looked at."""
    for kind, column in _with_schema(file, group):
        if kind.physical_type == "BYTE_ARRAY" and column.has_dictionary and _most(column) > MOST_BYTES:
            yield column


def _may_grow(stream: IO[bytes], file: Any, group: int, column: StoredColumn, lazily: dict[str, Any]) -> bool:
    """Whether as many texts as the column has, each as long as its dictionary's longest, are too much."""
    import pyarrow.parquet as pq

    reader = pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=[column.path], **lazily)
    batches = reader.iter_batches(1, row_groups=[group], columns=[column.path], use_threads=False)
    first = next(batches, None)
    longest = max(map(_longest, first.columns), default=0) if first is not None else 0
    return bool(column.values * longest > MOST_BYTES)


def _longest(array: pa.Array) -> int:
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)
        return int(pc.max(lengths).as_py() or 0)
    if pa.types.is_struct(kind):
        return max(map(_longest, array.flatten()), default=0)
    if pa.types.is_map(kind):
        return max(_longest(array.keys), _longest(array.items))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _longest(array.values)
    return 0
