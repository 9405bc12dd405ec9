"""Data that is in memory: frames, tables, datasets and lists of rows, as inputs like any other.

A frame, table or dataset becomes an Arrow file in scratch space, batch by batch, so that a dataset larger
than memory may be given; a list of dicts becomes JSON lines, which keep a missing key apart from a null.
What follows (blocks, doc_ids, digests, the record of what was left out) is as for files. The file's bytes
depend on the rows alone, so a call with equal rows finds its packed dataset "already there".
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from tokpack.errors import DataError, UsageError
from tokpack.settings.config import Config
from tokpack.terminal.interrupts import SCRATCH, scratch_folder

ROWS = 1024
"""Rows of a batch in the scratch file, whatever the chunks of what was given."""
FILES = LINES, TABLE = "rows.jsonl", "rows.arrow"
HINT = "give a path, a datasets.Dataset, a polars or pandas frame, an Arrow table, or a list of dicts"


class ArrowStream(Protocol):
    """Frames and tables of pyarrow, polars, pandas, duckdb, ... (the Arrow PyCapsule interface)."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class DatasetLike(Protocol):
    """`datasets.Dataset` and `IterableDataset`."""

    def with_format(self, type: str | None) -> Any: ...


StrPath = str | os.PathLike[str]
Rows = ArrowStream | DatasetLike | Sequence[Mapping[str, Any]]
Data = StrPath | Rows | Sequence[StrPath | Rows] | Config
"""What `analyze`, `pack` and `clean` read."""

Command = TypeVar("Command", bound=Callable[..., Any])


def takes_rows(command: Command) -> Command:
    """The command, which reads files, takes data in memory too."""

    @functools.wraps(command)
    def run(data: Data, *arguments: Any, **options: Any) -> Any:
        with in_files(data) as inputs:
            return command(inputs, *arguments, **options)

    return cast(Command, run)


@contextmanager
def in_files(data: Data) -> Iterator[list[str] | Config]:
    """Paths of the data; what is in memory lies in scratch files for as long as the block lasts.

    Raises UsageError for what is no data.
    """
    if isinstance(data, Config):
        yield data
        return
    parts = list(data) if isinstance(data, list | tuple) and not _is_rows(data) else [data]
    if all(isinstance(part, str | os.PathLike) for part in parts):
        yield [os.fspath(cast(StrPath, part)) for part in parts]
        return
    with scratch_folder() as folder:
        yield [_file(part, folder / str(number)) for number, part in enumerate(parts)]


def was_in_memory(path: str) -> bool:
    """Whether an input was such a scratch file."""
    file = Path(path)
    known = file.name in FILES and file.parent.name.isdecimal()
    return known and file.parent.parent.name.startswith(SCRATCH)


def _is_rows(data: Sequence[Any]) -> bool:
    return bool(data) and isinstance(data[0], Mapping)


def _file(rows: Any, folder: Path) -> str:
    """A path as it is; else the file `rows.arrow` or `rows.jsonl` with the rows, in a new folder."""
    if isinstance(rows, str | os.PathLike):
        return os.fspath(rows)
    folder.mkdir()
    if isinstance(rows, list | tuple) and _is_rows(rows):
        return str(_write_lines(rows, folder / LINES))
    return str(_write_tables(_tables(rows), folder / TABLE))


def _write_lines(rows: Iterable[Any], path: Path) -> Path:
    with path.open("wb") as file:
        for number, row in enumerate(rows):
            try:
                file.write(_line(row))
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"a row that is no JSON: {error}",
                    where=f"row {number} of the list",
                    hint="give dicts of texts, numbers, lists and dicts",
                ) from None
    return path


def _line(row: Any) -> bytes:
    """Half a surrogate pair as JSON escapes it, since UTF-8 has none."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"


def _tables(data: Any) -> Iterator[Any]:
    """The rows as Arrow tables."""
    import pyarrow as pa

    if hasattr(data, "with_format"):  # datasets; a DatasetDict has it too, and no `iter`
        batches = data.with_format("arrow")
        if not hasattr(batches, "iter"):
            splits = ", ".join(map(repr, data))
            raise UsageError(f"a dataset of several splits: {splits}", hint="give one: data['train']")
        yield from batches.iter(batch_size=ROWS)
    elif type(data).__module__.startswith("polars") and hasattr(data, "lazy"):
        import polars as pl

        yield data.lazy().collect().to_arrow(compat_level=pl.CompatLevel.oldest())
    elif hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas, whose columns may hold anything
        yield pa.Table.from_pandas(data, preserve_index=False).replace_schema_metadata()
    elif hasattr(data, "__arrow_c_stream__"):
        yield from (pa.Table.from_batches([batch]) for batch in pa.RecordBatchReader.from_stream(data))
    else:
        raise UsageError(f"{type(data).__name__} is no data", hint=HINT)


def _write_tables(tables: Iterator[Any], path: Path) -> Path:
    """Batches of `ROWS` rows, uncompressed."""
    import pyarrow as pa

    try:
        first = next(tables, None)
        if first is None or not first.num_columns:
            raise UsageError("the data has no columns", hint=HINT)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
            for table in _even(chain([first], tables)):
                writer.write_table(table)
    except pa.ArrowException as error:
        raise DataError(
            f"the rows fit no Arrow table: {error}",
            hint="values of one column have to be of one kind; a list of dicts may hold any",
        ) from None
    return path


def _even(tables: Iterable[Any]) -> Iterator[Any]:
    """The same rows in tables of `ROWS` rows, the last one shorter."""
    import pyarrow as pa

    held: list[Any] = []
    count = 0
    for table in tables:
        held.append(table)
        count += table.num_rows
        if count >= ROWS:
            whole = pa.concat_tables(held)
            full = count - count % ROWS
            yield from (_fresh(whole.slice(start, ROWS)) for start in range(0, full, ROWS))
            held, count = [whole.slice(full)], count - full
    if count:
        yield _fresh(pa.concat_tables(held))


def _fresh(table: Any) -> Any:
    """Copied into arrays of its own: of a slice, the offsets and bitmaps of the whole would be written."""
    return table.take(np.arange(table.num_rows)).combine_chunks()
