"""A finished packed dataset, opened for reading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tokpack import schema
from tokpack.errors import DataError
from tokpack.files.own_files import entries_below, is_hub_link, is_plain, is_tokenizer_file
from tokpack.on_disk.checked import check_dataset
from tokpack.on_disk.manifest import read_form, read_manifest
from tokpack.on_disk.shards import PARQUET, read_row, read_shard
from tokpack.on_disk.sums import read_limited
from tokpack.on_disk.token_files import Rows, is_index, mapped_rows, planned_shards
from tokpack.packed_urls import local_folder
from tokpack.terminal.activity import counted

TOKENIZER = "tokenizer"
MOST_BYTES = 1 << 30
"""Of `dropped.parquet` in memory."""


@dataclass(frozen=True)
class PackedFolder:
    """A finished packed dataset, memory-mapped; of a URL, its copy in the cache. Else a UsageError."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", local_folder(self.folder))
        _ = self.manifest

    @staticmethod
    def as_it_is(folder: Path) -> PackedFolder:
        """For what looks for faults: sums of shards that differ do not keep it from being opened."""
        packed = object.__new__(PackedFolder)
        packed.__dict__.update(folder=folder, manifest=read_form(folder))
        return packed

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return read_manifest(self.folder)

    @property
    def ledger(self) -> dict[str, Any]:
        ledger: dict[str, Any] = self.manifest["ledger"]
        return ledger

    @cached_property
    def validation(self) -> PackedFolder | None:
        """The validation packed dataset inside, where one was held out."""
        inside = self.folder / schema.VALIDATION
        return PackedFolder(inside) if inside.is_dir() else None

    @cached_property
    def table(self) -> pa.Table:
        """All packed rows, mapped from disk: `schema.packed_schema(manifest)`. Those of an index packed
        dataset are gathered into memory."""
        batches = self.batches() if is_index(self.manifest) else self.mapped()
        return pa.Table.from_batches(batches, schema=schema.packed_schema(self.manifest))

    @cached_property
    def _rows(self) -> list[Rows]:
        return self.mapped()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows in order, some at a time in memory."""
        for shard in self.shards():
            yield from shard

    def shards(self, as_they_are: bool = False) -> Iterator[Iterator[pa.RecordBatch]]:
        """The record batches of each shard; `as_they_are`: also rows whose columns do not fit each other."""
        if is_index(self.manifest):
            for part in planned_shards(self.folder, self.manifest):
                yield (rows.gathered() for rows in part)
            return
        columns = None if as_they_are else schema.packed_schema(self.manifest)
        for shard in self.manifest["shards"]:
            yield read_shard(self.folder / shard["file"], columns)

    def mapped(self) -> list[Rows]:
        """All rows in order, mapped from disk: Parquet shards are unpacked once, into the cache."""
        return mapped_rows(self.folder, self.manifest)

    @cached_property
    def dropped(self) -> pl.DataFrame:
        """What was left out or shortened, one row a document (`schema.DROPPED_SCHEMA`).

        Read by Arrow: polars panics at damaged files, or aborts.
        """
        import pyarrow.parquet as pq

        from tokpack.stages.read.expansion import entry_bytes

        path = self.folder / schema.DROPPED
        try:
            names = [field.name for field in schema.DROPPED_SCHEMA if pa.types.is_string(field.type)]
            with pq.ParquetFile(path, read_dictionary=names) as file:
                table = file.read().select(schema.DROPPED_SCHEMA.names).replace_schema_metadata()
            parts = (part for column in table.columns for part in column.chunks)
            if sum(int(entry_bytes(part).sum()) for part in parts) > MOST_BYTES:
                raise ValueError("texts that refer to a few grow to over 1 GiB")
            table = table.cast(schema.DROPPED_SCHEMA)
            table.validate(full=True)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise damaged(path, error) from None
        return pl.DataFrame(table)

    def quarantined(self) -> Iterator[dict[str, Any]]:
        """`quarantine.jsonl`, line by line. Raises DataError for a line that no run can have written."""
        path = self.folder / schema.QUARANTINE
        try:
            with path.open("rb") as lines:
                for line in lines:
                    entry = json.loads(line)
                    if not isinstance(entry["doc_id"], int) or not isinstance(entry["source"], str):
                        raise ValueError("doc_id or source of another type")
                    yield entry
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise damaged(path, error) from None

    @cached_property
    def input_paths(self) -> list[str]:
        """Where the inputs were, by `run.json`; empty when nothing is known."""
        path = self.folder / schema.RUN
        paths = read_object(path).get("inputs", []) if path.is_file() else []
        if not isinstance(paths, list) or not all(isinstance(place, str) for place in paths):
            raise damaged(path, TypeError("inputs is no list of paths"))
        return paths

    @cached_property
    def report(self) -> dict[str, Any]:
        """`report.json`; empty where there is none, as in a validation part."""
        path = self.folder / schema.REPORT
        return read_object(path) if path.is_file() else {}

    def check_sums(self) -> None:
        """The shards against the sums of the manifest; what was found right once is not read again.

        Raises DataError naming the first that differs.
        """
        check_dataset(self.folder, self.manifest)

    def copy_tokenizer(self, out: Path) -> None:
        """The folder `tokenizer` into `out`: the files that tokpack writes there, and no links."""
        for name, entry in entries_below(self.folder, f"{TOKENIZER}/"):
            if is_tokenizer_file(name) and (is_plain(name, entry) or is_hub_link(self.folder / name)):
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, out / name)

    @cached_property
    def tokenizer(self) -> Any:
        from tokpack.encoding.tokenizer import load_tokenizer

        folder = self.folder / TOKENIZER
        if not folder.is_dir():  # a name that is no folder would be looked for on the Hub
            raise DataError(
                "the tokenizer is missing", where=str(folder), hint="copy the packed dataset again"
            )
        return load_tokenizer(folder)

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    def __getitem__(self, row: int) -> dict[str, npt.NDArray[Any]]:
        """One packed row: input_ids, labels int32[T]; seq_lengths int32[D], doc_ids int64[D]."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        number = row % len(self)
        if is_index(self.manifest):
            for rows in self._rows:
                if number < rows.num_rows:
                    return rows.row(number)
                number -= rows.num_rows
        record = self._record(number)
        return {
            name: record.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
            for name in record.column_names
        }

    def _record(self, row: int) -> pa.Table:
        for shard in self.manifest["shards"]:
            if row < shard["rows"] and shard["file"].endswith(PARQUET):
                return read_row(self.folder / shard["file"], row)
            row -= shard["rows"]
        return self.table.slice(row + len(self), 1)

    def row_of_document(self, doc_id: int) -> int | None:
        """The first row that holds a document, None where it was left out."""
        return self.row_of_any(doc_id, doc_id + 1)

    def row_of_any(self, first: int, end: int) -> int | None:
        """The first row that holds a document numbered `first` to `end - 1`; None where there is none."""
        base = 0
        for batch in self.batches():
            column = batch.column("doc_ids")
            ids, offsets = column.flatten().to_numpy(), column.offsets.to_numpy()
            hits = np.flatnonzero((ids >= first) & (ids < end))
            if len(hits):
                return base + int(np.searchsorted(offsets - offsets[0], hits[0], "right")) - 1
            base += batch.num_rows
        return None

    def show(self, row: int = 0, max_tokens: int = 0) -> Any:
        """A packed row for people: prints with colors in a terminal, shows itself in a notebook.

        max_tokens: of each document; 0: all. Raises UsageError where there is no such row.
        """
        from tokpack.packed.viewer import ShownRow, choose_row

        return ShownRow(self, choose_row(self, row), max_tokens)

    def dropped_text(self, doc_id: int) -> str:
        """The text of a document that was left out: role and content of each message, from its input.

        Raises UsageError where no such document was left out, DataError where its input is gone or changed.
        """
        from tokpack.packed.left_out import find_left_out

        return find_left_out(self, doc_id).text

    def __rich__(self) -> Any:
        from tokpack.report.terminal import packed_panel

        return packed_panel(self.manifest)

    def _repr_html_(self) -> str:
        from tokpack.report.notebook import packed_frame

        return packed_frame(self.manifest)

    def __repr__(self) -> str:
        plan = self.manifest["plan"]
        return (
            f"PackedFolder({str(self.folder)!r}: {counted(self.manifest['documents'], 'document')}, "
            f"{counted(self.manifest['tokens'], 'token')} in {counted(len(self), 'row')} "
            f"of {self.manifest['capacity']:,}, "
            f"fill {plan['fill']:.2%})"
        )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object that a run wrote. Raises DataError for anything else."""
    try:
        found = json.loads(read_limited(path))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(found, dict):
        raise damaged(path, TypeError("no JSON object"))
    return found


def damaged(path: Path, error: Exception) -> DataError:
    """The error of a file that no run can have written so."""
    why = (str(error).splitlines() or [""])[0][:200]
    return DataError(
        f"{path.name} is damaged: {why}",
        where=str(path),
        hint="run `tokpack verify`, or copy the packed dataset again",
    )
