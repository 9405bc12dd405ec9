"""What the exports share: flat rows, saved `datasets` folders, settings, scripts."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokpack.arrays import Int32, Int64
from tokpack.frozen import frozen
from tokpack.packed.folder import PackedFolder
from tokpack.packed.stored_pieces import flat
from tokpack.ranges import offsets_of
from tokpack.stages.write import dataset_files, write_json
from tokpack.terminal.activity import counted

SCRIPTS = Path(__file__).parent / "scripts"
ROWS_READ: ContextVar[Callable[[int], None]] = ContextVar("ROWS_READ", default=lambda rows: None)
"""Whom to tell of rows that an export has read."""


@frozen
class Rows:
    """A record batch of packed rows, flat: T tokens, D documents, R rows."""

    input_ids: Int32
    labels: Int32
    lengths: Int32
    """Tokens of each document: int32[D]."""
    documents: Int64
    """Row r holds the documents `documents[r]` to `documents[r + 1]`: int64[R + 1]."""

    @staticmethod
    def of(record: pa.RecordBatch) -> Rows:
        per_row = np.diff(record.column("seq_lengths").offsets.to_numpy())
        ids, labels, lengths = (flat(record, name) for name in ("input_ids", "labels", "seq_lengths"))
        return Rows(ids, labels, lengths, offsets_of(per_row))

    @property
    def tokens(self) -> Int64:
        """Row r holds the tokens `tokens[r]` to `tokens[r + 1]`: int64[R + 1]."""
        return offsets_of(self.lengths)[self.documents]

    def positions(self) -> Int32:
        """From 0 in every document: int32[T]."""
        starts = offsets_of(self.lengths)[:-1]
        return (np.arange(len(self.input_ids)) - np.repeat(starts, self.lengths)).astype(np.int32)

    def document_numbers(self) -> Int32:
        """From 1 in every row: int32[T]."""
        counts = np.diff(self.documents)
        numbers = np.arange(len(self.lengths)) - np.repeat(self.documents[:-1], counts) + 1
        return np.repeat(numbers, self.lengths).astype(np.int32)


def as_lists(offsets: Int64, values: npt.NDArray[Any]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def splits(packed: PackedFolder) -> dict[str, PackedFolder]:
    """`train`, and `validation` where one was held out."""
    parts = {"train": packed}
    if packed.validation is not None:
        parts["validation"] = packed.validation
    return parts


@contextmanager
def rows_told_to(advance: Callable[[int], None]) -> Iterator[None]:
    """The rows that `shards` reads inside are told to `advance`."""
    before = ROWS_READ.set(advance)
    try:
        yield
    finally:
        ROWS_READ.reset(before)


def shards(packed: PackedFolder) -> Iterator[Iterator[pa.RecordBatch]]:
    """The record batches of each shard."""
    for shard in packed.shards():
        yield map(_told, shard)


def _told(record: pa.RecordBatch) -> pa.RecordBatch:
    ROWS_READ.get()(record.num_rows)
    return record


def write_datasets(
    packed: PackedFolder, out: Path, schema: pa.Schema, convert: Callable[[pa.RecordBatch], list[pa.Array]]
) -> None:
    """A `DatasetDict` for `datasets.load_from_disk(out)`: one split a folder, one file a shard.

    Memory holds one record batch at a time.
    """
    parts = splits(packed)
    for split, part in parts.items():
        folder = out / split
        folder.mkdir(parents=True)
        files = []
        count = len(part.manifest["shards"])
        for number, records in enumerate(shards(part)):
            name = f"data-{number:05}-of-{count:05}.arrow"
            with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                for record in records:
                    writer.write_batch(pa.record_batch(convert(record), schema=schema))
            files.append(name)
        seen = "".join(shard["sha256"] for shard in part.manifest["shards"]) + str(schema)
        dataset_files(folder, files, schema, hashlib.sha256(seen.encode()).hexdigest()[:16])
    write_json(out / "dataset_dict.json", {"splits": list(parts)})


def copy_script(name: str, out: Path, as_name: str) -> None:
    """A script that runs where the target is installed and tokpack is not."""
    shutil.copyfile(SCRIPTS / name, out / as_name)


def write_text(path: Path, text: str) -> None:
    path.write_text(text.strip() + "\n", encoding="utf-8")


def yaml_lines(settings: dict[str, Any]) -> str:
    """Flat settings as YAML; every JSON value is one."""
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in settings.items())


def figures(packed: PackedFolder) -> str:
    """One line for the README of an export."""
    manifest = packed.manifest
    return (
        f"{counted(manifest['documents'], 'document')}, {counted(manifest['tokens'], 'token')} "
        f"({manifest['trained_tokens']:,} with a label) in {counted(manifest['rows'], 'row')} of at most "
        f"{manifest['capacity']:,}"
    )
