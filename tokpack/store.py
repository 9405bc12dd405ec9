"""The token store: what pass 1 leaves on disk, one batch at a time, and what pass 2 maps back.

    .work/run.json                  the fingerprint of the run that owns the folder
    .work/batch-00007.arrow         ids and flags, one record a piece (schema.STORE_SCHEMA)
    .work/batch-00007.docs.arrow    one record a document, and in the metadata what else the batch produced

Both are written beside and renamed, the documents last: their presence commits the batch. A crash loses at
most the batches in flight; the same command finds the rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tokpack.errors import DataError, UsageError
from tokpack.own_files import is_store_file, remove_own
from tokpack.schema import STORE_SCHEMA
from tokpack.stages.ranges import Int64
from tokpack.stages.truncate import Pieces

RECORD = "run.json"


@dataclass(frozen=True, slots=True)
class Batch:
    """A committed batch. `docs` columns: doc_id, source, row, drop_reason, drop_detail, hash_high, hash_low,
    tokens (before truncation), cut, quality."""

    docs: pl.DataFrame
    pieces: pl.DataFrame
    """document (position within the batch), number, length, trained."""
    quarantined: list[str]
    counters: dict[str, int]
    paths: dict[str, int]
    examples: dict[str, list[str]]


class TokenStore:
    """A work folder. Raises UsageError when it belongs to another run."""

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RECORD
        if path.is_file() and any(folder.glob("*.docs.arrow")):  # nothing committed, nothing to protect
            self._compare(json.loads(path.read_text(encoding="utf-8")), fingerprint)
        else:
            _write(path, json.dumps(fingerprint, indent=1, sort_keys=True).encode())

    def _compare(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        different = sorted(_differences(found, json.loads(json.dumps(wanted))))
        if different:
            raise UsageError(
                f"an unfinished run with other settings is here; different: {', '.join(different)}",
                where=str(self.folder),
                hint="repeat its command to finish it, give --overwrite to start over, or another -o",
            )

    def has(self, index: int) -> bool:
        return self._docs_path(index).is_file()

    def commit(
        self, index: int, block_hash: str, docs: pl.DataFrame, pieces: Pieces, rest: dict[str, Any]
    ) -> None:
        """Write one batch: `rest` holds quarantined lines, counters and examples."""
        tokens = pieces.tokens
        lists = [
            pa.ListArray.from_arrays(pa.array(tokens.offsets.astype(np.int32)), pa.array(values))
            for values in (tokens.input_ids, tokens.flags)
        ]
        doc_ids = docs["doc_id"].to_numpy()[pieces.document]
        columns = [
            pa.array(doc_ids),
            pa.array(pieces.number),
            pa.array(pieces.trained.astype(np.int32)),
            *lists,
        ]
        _write_ipc(self._tokens_path(index), pa.record_batch(columns, schema=STORE_SCHEMA))
        meta = json.dumps({"block": block_hash, **rest}, ensure_ascii=False)
        table = docs.to_arrow().replace_schema_metadata({"batch": meta})
        _write_ipc(self._docs_path(index), table)

    def load(self, index: int) -> Batch:
        with pa.memory_map(str(self._docs_path(index))) as file:
            table = pa.ipc.open_file(file).read_all()
            meta = json.loads(table.schema.metadata[b"batch"])
            docs = pl.DataFrame(pl.from_arrow(table)).clone()
        record = self.tokens(index)
        document = np.searchsorted(docs["doc_id"].to_numpy(), record.column("doc_id").to_numpy())
        pieces = pl.DataFrame(
            {
                "document": document,
                "number": record.column("piece").to_numpy(),
                "length": np.diff(record.column("input_ids").offsets.to_numpy()),
                "trained": record.column("trained").to_numpy(),
            }
        )
        return Batch(docs, pieces, meta["quarantined"], meta["counters"], meta["paths"], meta["examples"])

    def check_block(self, index: int, block_hash: str) -> None:
        """Raises DataError when the input that made a committed batch has changed since."""
        with pa.memory_map(str(self._docs_path(index))) as file:
            meta = json.loads(pa.ipc.open_file(file).schema.metadata[b"batch"])
        if meta["block"] != block_hash:
            raise DataError(
                "the input changed since the unfinished run",
                where=str(self.folder),
                hint="give --overwrite to start over",
            )

    def tokens(self, index: int) -> pa.RecordBatch:
        """The batch's ids and flags, memory-mapped; the mapping outlives the closed file."""
        with pa.memory_map(str(self._tokens_path(index))) as file:
            return pa.ipc.open_file(file).get_batch(0)

    def remove(self) -> None:
        """Delete the store's own files, and its folder when nothing else is in it."""
        remove_store(self.folder)

    def _tokens_path(self, index: int) -> Path:
        return self.folder / f"batch-{index:05}.arrow"

    def _docs_path(self, index: int) -> Path:
        return self.folder / f"batch-{index:05}.docs.arrow"


def is_record(path: Path) -> bool:
    """Whether a run wrote this `run.json` of a token store."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"tokpack", "config", "inputs"} <= found.keys()


def remove_store(folder: Path) -> list[str]:
    """Delete the files of a token store, and its folder when nothing else is in it. Returns what is left."""
    return remove_own(folder, is_store_file)


def flat_arrays(record: pa.RecordBatch) -> tuple[Int64, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(offsets, input_ids, flags) of a mapped batch without copying tokens."""
    ids, flags = record.column("input_ids"), record.column("flags")
    return ids.offsets.to_numpy().astype(np.int64), ids.values.to_numpy(), flags.values.to_numpy()


def _differences(found: Any, wanted: Any, key: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in found.keys() | wanted.keys():
            yield from _differences(found.get(name), wanted.get(name), f"{key}.{name}".lstrip("."))
    elif found != wanted:
        yield f"{key} ({found!r} then, {wanted!r} now)" if len(f"{found}{wanted}") < 80 else key


def _write_ipc(path: Path, data: pa.Table | pa.RecordBatch) -> None:
    temporary = path.with_suffix(".part")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, data.schema) as writer:
        writer.write(data)
    temporary.replace(path)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    temporary.replace(path)
