"""Shards of packed rows, as one file each; those of an index packed dataset are in `token_files`.

`arrow`: an Arrow IPC stream, mapped from disk. `parquet`: about a fifth of the size, for storage and other
tools; one row group a record batch, read group by group. What needs rows at random from Parquet maps an
unpacked copy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from tokpack.errors import DataError, OutputError
from tokpack.files.parquet_files import StoredGroup, open_parquet, row_group_columns
from tokpack.files.user_cache import forget_abandoned, own_cache
from tokpack.on_disk.checked import is_right
from tokpack.on_disk.sums import file_sha256
from tokpack.schema import COPIES, LOSS_WEIGHTS
from tokpack.settings.config import ShardFormat

ARROW: Final = "arrow"
PARQUET: Final = "parquet"
INDEX: Final = "index"
MOST_VALUES = 1 << 28
"""Of a column in a row group of a Parquet shard: tokpack writes a few rows a group."""
KEPT_SECONDS = 30 * 24 * 3600


@contextmanager
def shard_writer(sink: Any, columns: pa.Schema, shard_format: ShardFormat) -> Iterator[Any]:
    """Has `write_batch`; each batch becomes a record batch, or a row group."""
    if shard_format == ARROW:
        with pa.ipc.new_stream(sink, columns) as writer:
            yield writer
        return
    import pyarrow.parquet as pq

    with pq.ParquetWriter(sink, columns, compression="zstd") as writer:
        yield writer


def read_shard(path: Path, columns: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
    """Record batches in order; those of Parquet one at a time in memory.

    Offsets are checked, so that no list reaches outside its buffers. With `columns`, the schema of the rows,
    so is that each row's columns fit each other. Raises DataError for a damaged shard, or one of other rows.
    """
    with _opened(path):
        for number, batch in enumerate(_batches(path)):
            batch.validate(full=True)
            if columns is not None and (fault := row_fault(batch, columns)):
                raise DataError(
                    f"rows of a shard are not as tokpack packs them: {fault}",
                    where=f"{path}, batch {number}",
                    hint="run `tokpack verify`, or copy the packed dataset again",
                )
            yield batch


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Turn what Arrow says of a missing or damaged shard into a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            "a shard named in the manifest is missing", where=str(path), hint="copy the packed dataset again"
        ) from None
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
        if isinstance(error, OSError) and error.errno is not None:
            what = f"cannot open: {os.strerror(error.errno)}"
            raise DataError(what, where=str(path), hint="check path and rights") from None
        raise DataError(
            f"a shard cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            hint="run `tokpack verify`",
        ) from None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix != f".{PARQUET}":
        with pa.ipc.open_stream(pa.memory_map(str(path))) as stream:
            yield from stream
        return
    with open_parquet(path) as file:
        for group, columns in enumerate(row_group_columns(path)):
            yield from _row_group(file, group, columns).to_batches()


def _row_group(file: Any, group: int, columns: StoredGroup) -> pa.Table:
    """Raises pa.ArrowInvalid for one of more values than tokpack writes: equal ones take no room."""
    values = max((column.values for column in columns), default=0)
    if values > MOST_VALUES:
        raise pa.ArrowInvalid(f"a row group says that it holds {values:,} values")
    return file.read_row_group(group).combine_chunks()


def row_fault(batch: pa.RecordBatch, columns: pa.Schema) -> str:  # noqa: PLR0911 - one a fault
    """Why the rows cannot be gathered, cut or trained by their lengths; empty when they can.

    Costs a few vectors over rows and documents; tokens are not looked at.
    """
    if not batch.schema.equals(columns):
        return f"columns are {', '.join(map(str, batch.schema))[:200]}"
    lists = {name: batch.column(name) for name in batch.schema.names}
    for name, column in lists.items():
        if column.null_count or column.flatten().null_count:
            return f"{name} holds nulls"
    sizes = {name: np.diff(column.offsets.to_numpy()) for name, column in lists.items()}
    lengths = lists["seq_lengths"].flatten().to_numpy()
    for name, size in sizes.items():
        other = "input_ids" if name in ("input_ids", "labels", LOSS_WEIGHTS) else "seq_lengths"
        if not np.array_equal(size, sizes[other]):
            return f"{name} and {other} differ in length"
    if len(lengths) and lengths.min() <= 0:
        return "a document of no tokens"
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    rows = np.concatenate([[0], np.cumsum(sizes["seq_lengths"], dtype=np.int64)])
    if not np.array_equal(np.diff(ends[rows]), sizes["input_ids"]):
        return "seq_lengths do not add up to the row"
    for name in ("doc_ids", "pieces", COPIES):
        values = lists[name].flatten().to_numpy() if name in lists else lengths
        if len(values) and values.min() < 0:
            return f"{name} below 0"
    return ""


def read_row(path: Path, row: int) -> pa.Table:
    """One row of a Parquet shard; reads its row group."""
    with _opened(path), open_parquet(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                table = _row_group(file, group, row_group_columns(path)[group])
                table.validate(full=True)
                return table.slice(row, 1)
            row -= rows
    raise IndexError(row)


def mapped_shard(path: Path, sha256: str, columns: pa.Schema | None = None) -> list[pa.RecordBatch]:
    """Record batches that stay on disk. Parquet is unpacked once, into the user's own cache.

    Raises DataError as `read_shard` does, and for a Parquet shard that has not the digest `sha256`, which
    names the copy.
    """
    if path.suffix != f".{PARQUET}":
        return list(read_shard(path, columns))
    if not is_right(path, sha256):
        raise DataError(
            "the bytes of a shard are not those that were packed",
            where=str(path),
            hint="run `tokpack verify`, or copy the packed dataset again",
        )
    try:
        copy = _unpacked(path, own_cache("unpacked") / f"{sha256}.{ARROW}")
    except (OSError, OutputError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        raise DataError(
            "a Parquet shard cannot be unpacked: nowhere to write to",
            where=str(path),
            hint="set TOKPACK_CACHE to a folder with room, or `tokpack repack --shard-format arrow`",
        ) from None
    return list(read_shard(copy, columns))


def _unpacked(shard: Path, copy: Path) -> Path:
    """The copy of a shard, made now when there is none, or one that is not as it was written."""
    known = copy.with_suffix(".sha256")
    try:
        if is_right(copy, known.read_text(encoding="ascii")):
            os.utime(known)
            return copy
    except (OSError, ValueError, DataError):
        pass
    _forget_old(copy.parent)
    unpack(shard, copy)
    part = known.with_suffix(f".{os.getpid()}.part")
    part.write_text(file_sha256(copy), encoding="ascii")
    part.replace(known)
    return copy


def _forget_old(folder: Path) -> None:
    """Copies that nothing opened for a month, and what killed commands left."""
    forget_abandoned(folder, "*.part")
    for known in folder.glob("*.sha256"):
        with suppress(OSError):
            if known.stat().st_mtime < time.time() - KEPT_SECONDS:
                known.with_suffix(f".{ARROW}").unlink(missing_ok=True)
                known.unlink()


def unpack(shard: Path, target: Path) -> None:
    """Write a Parquet shard as an Arrow stream, whole or not at all, also when several processes do so."""
    import pyarrow.parquet as pq

    part = target.with_suffix(f".{os.getpid()}.part")
    batches = read_shard(shard)
    with _opened(shard):
        columns = pq.read_schema(shard)
    try:
        with pa.OSFile(str(part), "wb") as sink, shard_writer(sink, columns, ARROW) as writer:
            for batch in batches:
                writer.write_batch(batch)
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
