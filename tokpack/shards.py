"""Shards of packed rows, as one file each.

`arrow`: an Arrow IPC stream, mapped from disk. `parquet`: about a fifth of the size, for storage and other
tools; one row group a record batch, read group by group. What needs rows at random from Parquet maps an
unpacked copy.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from tokpack.config import ShardFormat
from tokpack.errors import DataError

ARROW: Final = "arrow"
PARQUET: Final = "parquet"
CACHE: Final = "cache-"
"""Files beside the shards that are no part of the artefact begin like this (`datasets.map` writes such)."""


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


def read_shard(path: Path) -> Iterator[pa.RecordBatch]:
    """Record batches in order; those of Parquet one at a time in memory. Raises DataError when damaged."""
    try:
        if path.suffix != f".{PARQUET}":
            with pa.ipc.open_stream(pa.memory_map(str(path))) as stream:
                yield from stream
            return
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).combine_chunks().to_batches()
    except FileNotFoundError:
        raise DataError(
            "a shard named in the manifest is missing", where=str(path), hint="copy the artefact again"
        ) from None
    except pa.ArrowException as error:
        raise DataError(
            f"a shard cannot be read: {error}", where=str(path), hint="run `tokpack verify`"
        ) from None


def read_row(path: Path, row: int) -> pa.Table:
    """One row of a Parquet shard; reads its row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                return file.read_row_group(group).slice(row, 1)
            row -= rows
    raise IndexError(row)


def mapped_shard(path: Path, sha256: str) -> list[pa.RecordBatch]:
    """Record batches that stay on disk. Parquet is unpacked once, into `cache-*` beside the shard or, where
    that cannot be written, the folder for temporary files; `sha256` of the shard names the copy."""
    if path.suffix != f".{PARQUET}":
        return list(read_shard(path))
    name = f"{CACHE}{sha256[:32]}.{ARROW}"
    for folder in (path.parent, Path(tempfile.gettempdir())):
        copy = folder / name
        try:
            if not copy.is_file():
                unpack(path, copy)
        except OSError:
            continue
        return list(read_shard(copy))
    raise DataError(
        "a Parquet shard cannot be unpacked: nowhere to write to",
        where=str(path),
        hint="set TMPDIR to a folder with room, or `tokpack repack --shard-format arrow`",
    )


def unpack(shard: Path, target: Path) -> None:
    """Write a Parquet shard as an Arrow stream, whole or not at all, also when several processes do so."""
    import pyarrow.parquet as pq

    part = target.with_suffix(f".{os.getpid()}.part")
    batches = read_shard(shard)
    try:
        with pa.OSFile(str(part), "wb") as sink, shard_writer(sink, pq.read_schema(shard), ARROW) as writer:
            for batch in batches:
                writer.write_batch(batch)
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
