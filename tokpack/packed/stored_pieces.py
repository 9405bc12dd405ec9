"""A finished packed dataset seen as a token store: its pieces can be planned anew and gathered again.

Each record batch of a shard is a batch of the store, each document (or piece of a split one) a record in it;
of an index packed dataset the token files are one batch.
Tokens stay on disk: only a few numbers a piece are in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokpack.arrays import Bools, Int32, Int64
from tokpack.frozen import frozen
from tokpack.on_disk.token_files import PlannedRows, Rows, TokenFiles
from tokpack.packed.folder import PackedFolder
from tokpack.ranges import offsets_of, range_indices
from tokpack.schema import COPIES, IS_DESIRABLE, LOSS_WEIGHTS
from tokpack.stages.write import FlatBatch, Placement, RowContents, labeled_tokens

CHUNK = 4096
"""Pieces whose labels are read at a time."""


@frozen
class StoredPieces:
    """The pieces of one or more packed datasets in row order."""

    placement: Placement
    row_offsets: Int64
    """Row r holds the pieces `row_offsets[r]` to `row_offsets[r + 1]`."""
    batches: Callable[[int], FlatBatch]
    """For `write_shards`."""

    @staticmethod
    def of(packed_folders: list[PackedFolder], first_doc_ids: list[int] | None = None) -> StoredPieces:
        """The pieces of all packed datasets; `first_doc_ids` are added to the doc_ids of each."""
        bases = first_doc_ids or [0] * len(packed_folders)
        records = [
            (record, base) for a, base in zip(packed_folders, bases, strict=True) for record in a.mapped()
        ]
        units: list[pa.RecordBatch | TokenFiles] = []
        names = ("batch", "index", "length", "doc_id", "number", "copy", "desirable", "row")
        columns: dict[str, list[npt.NDArray[Any]]] = {name: [np.empty(0, np.int64)] for name in names}
        for record, base in records:
            lengths = flat(record, "seq_lengths")
            if isinstance(record, PlannedRows):
                unit, index = record.store, record.records
            else:
                unit, index = record, np.arange(len(lengths))
            if not units or units[-1] is not unit:
                units.append(unit)
            columns["batch"].append(np.full(len(lengths), len(units) - 1))
            columns["index"].append(index)
            columns["length"].append(lengths)
            columns["doc_id"].append(flat(record, "doc_ids") + base)
            columns["number"].append(flat(record, "pieces"))
            repeats = COPIES in record.schema.names
            columns["copy"].append(flat(record, COPIES) if repeats else np.zeros(len(lengths), np.int32))
            labeled = IS_DESIRABLE in record.schema.names
            columns["desirable"].append(_labels(record) if labeled else np.ones(len(lengths), np.bool_))
            columns["row"].append(np.diff(record.column("seq_lengths").offsets.to_numpy()))
        joined = {name: np.concatenate(parts) for name, parts in columns.items()}
        placement = Placement(
            joined["batch"].astype(np.int32),
            joined["index"].astype(np.int32),
            joined["length"].astype(np.int32),
            joined["doc_id"].astype(np.int64),
            joined["number"].astype(np.int32),
            joined["copy"].astype(np.int32),
            joined["desirable"].astype(np.bool_),
        )
        batches = lru_cache(maxsize=None)(lambda number: _flat_batch(units[number]))
        return StoredPieces(placement, offsets_of(joined["row"]), batches)

    @property
    def rows(self) -> int:
        return len(self.row_offsets) - 1

    def row_of_piece(self) -> Int32:
        return np.repeat(np.arange(self.rows, dtype=np.int32), np.diff(self.row_offsets))

    def in_rows(self, order: Int64) -> RowContents:
        """The rows as they are, `order[0]` first."""
        counts = np.diff(self.row_offsets)[order]
        return RowContents(range_indices(self.row_offsets[order], counts), offsets_of(counts))

    def trained(self) -> Int64:
        """Tokens with a label of each piece: int64[pieces]."""
        at, found = self.placement, []
        for low in range(0, len(at.length), CHUNK):
            chosen = np.arange(low, min(low + CHUNK, len(at.length)))
            _, labeled = labeled_tokens(at, chosen, self.batches)
            running = np.append(0, np.cumsum(labeled))
            found.append(np.diff(running[offsets_of(at.length[chosen])]))
        return np.concatenate([np.empty(0, np.int64), *found])

    def by_document(self) -> StoredPieces:
        """The same pieces as they were before they were planned: by copy, document and piece; one a row."""
        at = self.placement
        return self.take(np.lexsort((at.number, at.doc_id, at.copy)))

    def take(self, chosen: Int64) -> StoredPieces:
        """Those pieces alone, in that order, one a row."""
        return StoredPieces(self.placement.take(chosen), np.arange(len(chosen) + 1), self.batches)


def _flat_batch(record: pa.RecordBatch | TokenFiles) -> FlatBatch:
    if isinstance(record, TokenFiles):
        return FlatBatch(*record.flat())
    weights = flat(record, LOSS_WEIGHTS) if LOSS_WEIGHTS in record.schema.names else None
    offsets = offsets_of(flat(record, "seq_lengths"))
    return FlatBatch(offsets, flat(record, "input_ids"), flat(record, "labels"), weights)


def _labels(record: Rows) -> Bools:
    found: Bools = record.column(IS_DESIRABLE).flatten().to_numpy(zero_copy_only=False).astype(np.bool_)
    return found


def flat(record: Rows, column: str) -> npt.NDArray[Any]:
    """The values of a list column, of these rows only; only truth values are copied."""
    values: npt.NDArray[Any] = record.column(column).flatten().to_numpy(zero_copy_only=False)
    return values
