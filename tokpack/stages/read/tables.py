"""Files of columns (Parquet, Arrow, CSV, saved datasets) -> tables of about one block's size."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from tokpack.errors import DataError
from tokpack.stages.read.csv_rows import csv_batches
from tokpack.stages.read.expansion import MOST_ROWS, check_views, grows, slices
from tokpack.stages.read.faults import UNREADABLE, Unreadable, with_faults
from tokpack.stages.read.parquet_rows import parquet_batches
from tokpack.stages.read.plain_types import is_odd, plain_batch
from tokpack.stages.read.sources import Source, saved_field
from tokpack.stages.read.streams import check_columns, seekable

_ALONE = pa.ipc.IpcReadOptions(use_threads=False)
"""Arrow's threads that still hold a Python file when a process ends can hang or abort it."""
CELLS = {"csv": ",", "tsv": "\t"}
"""Container of lines of cells -> what separates them."""
BINARY_OF = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
}


def table_blocks(stream: IO[bytes], source: Source, block_bytes: int) -> Iterator[pa.Table]:
    if source.container in CELLS:
        batches = csv_batches(stream, source.path, CELLS[source.container])
        yield from _merged(batches, source, block_bytes)
        return
    if source.container == "parquet":
        batches = parquet_batches(seekable(stream, source), source)
    else:
        batches = (_valid(batch, source) for batch in _ipc_batches(seekable(stream, source), source))
    yield from _merged(map(_sound, slices(batches, source, block_bytes)), source, block_bytes)


def group_tables(stream: IO[bytes], source: Source, groups: range, block_bytes: int) -> Iterator[pa.Table]:
    """Some row groups of a Parquet file that lies on this machine, as it is."""
    batches = parquet_batches(stream, source, groups)
    yield from _merged(map(_sound, slices(batches, source, block_bytes)), source, block_bytes)


def dataset_blocks(source: Source, block_bytes: int) -> Iterator[pa.Table]:
    """A folder written by `datasets.save_to_disk`; its hash covers all shards in order."""
    files = saved_field(Path(source.path) / "state.json", "_data_files")
    digest = hashlib.sha256()

    def batches() -> Iterator[pa.RecordBatch]:
        for entry in files:
            with (Path(source.path) / entry["filename"]).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                file.seek(0)
                for batch in _ipc_batches(file, source):
                    source.bytes_read += batch.nbytes
                    yield batch

    parts = slices((_valid(batch, source) for batch in batches()), source, block_bytes)
    yield from _merged(map(_sound, parts), source, block_bytes)
    source.sha256 = digest.hexdigest()


def dataset_sha256(source: Source) -> str:
    """What `dataset_blocks` takes on its way, alone."""
    digest = hashlib.sha256()
    for entry in saved_field(Path(source.path) / "state.json", "_data_files"):
        with (Path(source.path) / entry["filename"]).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _ipc_batches(stream: IO[bytes], source: Source) -> Iterator[pa.RecordBatch]:
    head = stream.read(6)
    stream.seek(0)
    is_file = head == b"ARROW1"
    reader = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(stream, options=_ALONE)
    check_columns(_count(reader.schema.types), source.path)
    yield from (map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader)


def _count(kinds: Iterable[pa.DataType]) -> int:
    """Columns of values, those inside of others too."""
    inside = ([kind.field(number).type for number in range(kind.num_fields)] for kind in kinds)
    return sum(_count(some) if some else 1 for some in inside)


def _merged(batches: Iterator[pa.RecordBatch], source: Source, block_bytes: int) -> Iterator[pa.Table]:
    """Join small record batches, and slice large ones, into tables of about `block_bytes`."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        _check_names(batch.schema.names, source)
        rows = max(1, min(MOST_ROWS, batch.num_rows * block_bytes // max(batch.nbytes, 1)))
        for start in range(0, batch.num_rows, rows):
            part = batch.slice(start, rows)
            held.append(part)
            size += part.nbytes
            if size >= block_bytes:
                yield _one_table(held)
                held, size = [], 0
    if held:
        yield _one_table(held)


def _one_table(batches: list[pa.RecordBatch]) -> pa.Table:
    """Of batches of which some have no column of faults."""
    return pa.concat_tables(map(pa.Table.from_batches, ([b] for b in batches)), promote_options="default")


def _check_names(names: list[str], source: Source) -> None:
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(
            f"two columns are named {twice[0]!r}" if twice[0] else "two columns have no name",
            where=source.path,
            hint="rename one of them, or take empty ones out",
        )


# What a file may hold that no writer of Arrow's writes


def _valid(batch: pa.RecordBatch, source: Source) -> pa.RecordBatch:
    """The batch, whose texts need not be UTF-8; one of plain types is looked at in `_sound`.

    Raises pa.ArrowInvalid for offsets and lengths that lead out of the data, and for views of such texts.
    """
    if any(is_odd(kind) or grows(kind) for kind in batch.schema.types):
        check_views(batch, source)
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid:
            _with_bytes(batch).validate(full=True)
    return batch


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A slice of a batch in plain types, with rows that hold texts that are not UTF-8 set aside.

    Raises pa.ArrowInvalid as `_valid` does.
    """
    if UNREADABLE in batch.schema.names:
        batch = batch.drop_columns([UNREADABLE])
    batch = plain_batch(batch)
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        seen = _with_bytes(batch)
        seen.validate(full=True)
        batch = _without_broken_texts(batch, seen)
    return batch


def _with_bytes(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [column.view(_as_binary(column.type)) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _as_binary(kind: pa.DataType) -> pa.DataType:
    """The type with the same memory in which texts are bytes."""
    if kind in BINARY_OF:
        return BINARY_OF[kind]
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_binary(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_as_binary(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_as_binary(kind.value_type)))
    return kind


def _without_broken_texts(batch: pa.RecordBatch, seen: pa.RecordBatch) -> pa.RecordBatch:
    faults: dict[int, Unreadable] = {}
    for position in range(batch.num_rows):
        try:
            batch.take(pa.array([position])).validate(full=True)  # a slice is checked whole
        except pa.ArrowInvalid:
            raw = repr(seen.slice(position, 1).to_pylist()[0]).encode("utf-8", "backslashreplace")
            faults[position] = Unreadable("it holds a text that is not UTF-8", raw)
    table = with_faults(pa.Table.from_batches([batch]), faults)
    return next(iter(table.combine_chunks().to_batches()))
