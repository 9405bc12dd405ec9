"""What a batch takes once it is written out, and slices of it that are small then.

A dictionary, a view, a list view and a run each say in a few bytes what may be of any size: a file of 1 MB
can stand for 100 GB. The size is added up from lengths before anything is written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.errors import DataError
from tokpack.stages.read.sources import Source
from tokpack.stages.read.streams import check_growth

Int64 = np.ndarray[Any, np.dtype[np.int64]]
MOST_ROWS = 1 << 20
"""Of a slice: nulls, lists of no width and empty objects take no bytes, but are rows."""
MOST_VALUES = 1 << 27
"""Of a slice, at any depth."""
LEAST_BYTES = 8
"""What a value counts for, whatever its width."""


def slices(batches: Iterator[pa.RecordBatch], source: Source, most: int) -> Iterator[pa.RecordBatch]:
    """The batches, those that grow when they are written out in slices of about `most` bytes then.

    Batches are valid. Raises DataError for a row longer than `source.max_line`, and for a file that grows to
    more than 1,000 times its size.
    """
    total = 0
    for batch in _few_rows(batches):
        if not any(map(grows, batch.schema.types)):
            yield batch
            continue
        sizes = np.full(batch.num_rows, LEAST_BYTES, np.int64)
        for column in batch.columns:
            sizes += entry_bytes(column)
        if len(sizes) and sizes.max() > source.max_line:
            raise DataError(
                f"a row of more than {source.max_line >> 20:,} MB when it is written out",
                where=source.path,
                hint="is the file what its name says? --max-line MB allows longer rows",
            )
        total += int(sizes.sum())
        check_growth(total, source)
        yield from _cut(batch, sizes, most)


def check_views(batch: pa.RecordBatch, source: Source) -> None:
    """Raises DataError for views of texts that are too much to be validated: each is looked at in full."""
    check_growth(sum(map(_viewed, batch.columns)), source)


def _viewed(array: pa.Array) -> int:
    if isinstance(array.type, pa.BaseExtensionType):
        return _viewed(array.storage)
    if _is_view(array.type):
        return int(_of_views(array).sum())
    if _types.is_dictionary(array.type):
        return _viewed(array.dictionary)
    if _types.is_map(array.type):
        return _viewed(array.keys) + _viewed(array.items)
    if _types.is_struct(array.type) or _types.is_union(array.type):
        return sum(_viewed(array.field(number)) for number in range(array.type.num_fields))
    return _viewed(array.values) if array.type.num_fields else 0


def _few_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if batch.num_rows <= MOST_ROWS:
            yield batch
        else:
            starts = range(0, batch.num_rows, MOST_ROWS)
            yield from (batch.slice(start, MOST_ROWS) for start in starts)


def _cut(batch: pa.RecordBatch, sizes: Int64, most: int) -> Iterator[pa.RecordBatch]:
    ends = np.cumsum(sizes)
    start, before = 0, 0
    while start < len(sizes):
        end = max(int(np.searchsorted(ends, before + most, side="right")), start + 1)
        yield batch.slice(start, end - start)
        start, before = end, int(ends[end - 1])


def entry_bytes(array: pa.Array) -> Int64:
    """Bytes of each entry once it is written out: int64[len(array)].

    Raises pa.ArrowInvalid for an index that leads out of its dictionary.
    """
    if isinstance(array.type, pa.BaseExtensionType):
        return entry_bytes(array.storage)
    if len(array) > MOST_VALUES:
        raise pa.ArrowInvalid(f"a batch of more than {MOST_VALUES:,} values that refer to others")
    if (width := _width(array.type)) is not None:
        return np.full(len(array), width, np.int64)
    inside = next(of for test, of in _MEASURES if test(array.type))
    return np.asarray(inside(array), np.int64) + LEAST_BYTES


def _width(kind: pa.DataType) -> int | None:
    """Bytes of each entry where all are of one size, else None."""
    if isinstance(kind, pa.BaseExtensionType):
        return _width(kind.storage_type)
    if _types.is_fixed_size_list(kind):
        inner = _width(kind.value_type)
        return None if inner is None else kind.list_size * inner + LEAST_BYTES
    if _types.is_fixed_size_binary(kind):
        return int(kind.byte_width) + LEAST_BYTES
    return None if any(test(kind) for test, _ in _MEASURES) else LEAST_BYTES


def _of_texts(array: pa.Array) -> Int64:
    return np.asarray(pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False))


def _of_views(array: pa.Array) -> Int64:
    lengths = np.frombuffer(array.buffers()[1], np.int32)[::4]  # 16 bytes a view, the first 4 its length
    return np.where(_valid(array), lengths[array.offset : array.offset + len(array)], 0)


def _of_structs(array: pa.Array) -> Int64:
    return sum(map(entry_bytes, array.flatten()), np.zeros(len(array), np.int64))


def _of_lists(array: pa.Array) -> Int64:
    offsets = array.offsets.to_numpy()
    children = [array.keys, array.items] if pa.types.is_map(array.type) else [array.values]
    return sum(
        (_between(child, offsets[:-1], offsets[1:]) for child in children), np.zeros(len(array), np.int64)
    )


def _of_fixed_lists(array: pa.Array) -> Int64:
    starts = (array.offset + np.arange(len(array))) * array.type.list_size
    return _between(array.values, starts, starts + array.type.list_size)


def _of_list_views(array: pa.Array) -> Int64:
    lengths = np.where(_valid(array), array.sizes.to_numpy(), 0).astype(np.int64)
    starts = np.where(lengths > 0, array.offsets.to_numpy(), 0).astype(np.int64)
    return _between(array.values, starts, starts + lengths)


def _of_dictionaries(array: pa.Array) -> Int64:
    sizes, valid = entry_bytes(array.dictionary), _valid(array.indices)
    at = np.asarray(pc.fill_null(array.indices, 0).to_numpy(zero_copy_only=False)).astype(np.int64)
    if ((at[valid] < 0) | (at[valid] >= len(sizes))).any():
        raise pa.ArrowInvalid("an index leads out of its dictionary")
    return np.where(valid, np.append(sizes, 0)[np.where(valid, at, 0)], 0)


def _of_runs(array: pa.Array) -> Int64:
    logical = np.arange(array.offset, array.offset + len(array))
    return entry_bytes(array.values)[np.searchsorted(array.run_ends.to_numpy(), logical, side="right")]


def _of_unions(array: pa.Array) -> Int64:
    sizes, codes = np.zeros(len(array), np.int64), array.type_codes.to_numpy()
    for number, code in enumerate(array.type.type_codes):
        rows, child = np.flatnonzero(codes == code), entry_bytes(array.field(number))
        sizes[rows] = child[array.offsets.to_numpy()[rows] if array.type.mode == "dense" else rows]
    return sizes


def _valid(array: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False))


def _between(child: pa.Array, starts: Any, ends: Any) -> Int64:
    """Bytes of the entries from each start to its end."""
    starts, ends = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
    if (width := _width(child.type)) is not None:
        return np.asarray((ends - starts) * width)
    first, last = (int(starts.min()), int(ends.max())) if len(starts) else (0, 0)
    totals = np.concatenate([[0], np.cumsum(entry_bytes(child.slice(first, last - first)))])
    return np.asarray(totals[ends - first] - totals[starts - first])


def _any(*tests: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda kind: any(test(kind) for test in tests)


_types = pa.types
_is_view = _any(_types.is_string_view, _types.is_binary_view)
_is_list_view = _any(_types.is_list_view, _types.is_large_list_view)
_is_text = _any(_types.is_string, _types.is_large_string, _types.is_binary, _types.is_large_binary)
_MEASURES: list[tuple[Callable[[pa.DataType], bool], Callable[[Any], Int64]]] = [
    (_is_text, _of_texts),
    (_is_view, _of_views),
    (_types.is_struct, _of_structs),
    (_any(_types.is_list, _types.is_large_list, _types.is_map), _of_lists),
    (_types.is_fixed_size_list, _of_fixed_lists),
    (_is_list_view, _of_list_views),
    (_types.is_dictionary, _of_dictionaries),
    (_types.is_run_end_encoded, _of_runs),
    (_types.is_union, _of_unions),
]
_refers = _any(_is_view, _is_list_view, _types.is_dictionary, _types.is_run_end_encoded, _types.is_union)


def grows(kind: pa.DataType) -> bool:
    """Whether an entry of the type, or of one inside it, can be larger than the memory it lies in, which may
    be none."""
    if isinstance(kind, pa.BaseExtensionType):
        return grows(kind.storage_type)
    if _refers(kind) or _types.is_null(kind) or (_types.is_fixed_size_list(kind) and not kind.list_size):
        return True
    inside = [kind.field(number).type for number in range(kind.num_fields)]
    return any(map(grows, inside)) or (_types.is_struct(kind) and not inside)
