"""The rows of a packed dataset looked at one by one: what no row may be, and what their documents are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tokpack import schema
from tokpack.arrays import Bools
from tokpack.packed.folder import PackedFolder
from tokpack.packed.preference_checks import LABELED, Lists, torn_rows
from tokpack.ranges import offsets_of

PLACED = {"doc": pl.Int64, "copy": pl.Int32, "piece": pl.Int32, "length": pl.Int32}


class CheckedRows:
    """One pass over all rows, batch by batch: invariants, and the numbers that the other checks compare."""

    def __init__(self, packed: PackedFolder) -> None:
        manifest = packed.manifest
        self.rows = self.tokens = self.trained = 0
        self._found: list[pl.DataFrame] = []
        self.pair_faults: list[str] = []
        self.good: list[pl.DataFrame] = []
        """Of unpaired preferences: documents, and whether their answers are good."""
        self.label_faults: list[str] = []
        self._schema = schema.packed_schema(manifest)
        self.faults: list[str] = []
        self._capacity, self._vocab = manifest["capacity"], manifest["tokenizer"]["vocab_size"]
        for shard in packed.shards(as_they_are=True):
            for batch in shard:
                self._see(batch)
        if self.rows != manifest["rows"]:
            self.faults.append(f"{self.rows} rows, the manifest says {manifest['rows']}")

    def _see(self, batch: pa.RecordBatch) -> None:
        """The faults of a batch of rows, three of a kind at most, and its numbers."""
        if batch.schema != self._schema:
            self.faults.append(f"columns are {batch.schema.names}")
            return
        columns = {name: _list(batch.column(name)) for name in batch.schema.names}
        ids, labels, lengths, doc_ids, pieces = (columns[name] for name in schema.PACKED_SCHEMA.names)
        copies = columns.get(schema.COPIES, (pieces[0], np.zeros_like(pieces[1])))
        row_sizes = np.diff(ids[0])
        per_row = (
            np.add.reduceat(np.append(lengths[1], 0), lengths[0][:-1]) if len(lengths[1]) else 0 * row_sizes
        )
        starts = offsets_of(lengths[1])[:-1]
        in_place = starts < len(labels[1])
        trained = labels[1] != schema.IGNORE_INDEX
        weights = columns.get(schema.LOSS_WEIGHTS, (ids[0], trained.astype(np.float32)))
        tests: list[tuple[str, Callable[[], Any]]] = [
            ("input_ids and loss_weights differ in length", lambda: np.diff(weights[0]) != row_sizes),
            (
                "a weight without a label, a label without a weight, or one that is no number",
                lambda: self._by_row(ids, (weights[1] > 0) & (weights[1] < np.inf) != trained),
            ),
            ("a weight below 0", lambda: self._by_row(ids, ~(weights[1] >= 0))),
            ("input_ids and labels differ in length", lambda: np.diff(labels[0]) != row_sizes),
            ("seq_lengths do not add up to the row", lambda: per_row != row_sizes),
            ("longer than the capacity, or empty", lambda: (row_sizes > self._capacity) | (row_sizes == 0)),
            ("seq_lengths and doc_ids differ in length", lambda: np.diff(lengths[0]) != np.diff(doc_ids[0])),
            ("doc_ids and pieces differ in length", lambda: np.diff(doc_ids[0]) != np.diff(pieces[0])),
            ("doc_ids and copies differ in length", lambda: np.diff(doc_ids[0]) != np.diff(copies[0])),
            ("a document of no tokens", lambda: self._by_row(lengths, lengths[1] <= 0)),
            (
                "an id outside the vocabulary",
                lambda: self._by_row(ids, ids[1].view(np.uint32) >= self._vocab),  # below 0: very large
            ),
            (
                "a label that is neither its token nor -100",
                lambda: self._by_row(ids, trained & (labels[1] != ids[1])),
            ),
            (
                "the first token of a document has a label",
                lambda: self._by_row(lengths, ~in_place | trained[np.minimum(starts, len(trained) - 1)]),
            ),
        ]
        for text, test in tests:
            try:
                hit = np.flatnonzero(test())
            except (ValueError, IndexError):
                self.faults.append(f"rows from {self.rows}: lists of different shapes")
                continue
            self.faults += [f"row {self.rows + int(row)}: {text}" for row in hit[:3]]
        self._see_preferences(columns, doc_ids)
        self.rows += batch.num_rows
        self.tokens += len(ids[1])
        self.trained += int(trained.sum())
        if len(doc_ids[1]) == len(pieces[1]) == len(copies[1]) == len(lengths[1]):  # else it is a fault above
            known = zip(PLACED, (doc_ids[1], copies[1], pieces[1], lengths[1]), strict=True)
            self._found.append(pl.DataFrame({name: values.copy() for name, values in known}, schema=PLACED))

    def _see_preferences(self, columns: dict[str, Lists], doc_ids: Lists) -> None:
        """Labels of unpaired ones, and pairs; `rows` are those before this batch."""
        if schema.IS_DESIRABLE in columns:
            good = columns[schema.IS_DESIRABLE]
            if not np.array_equal(good[0], doc_ids[0]):
                self.label_faults.append(f"rows from {self.rows}: doc_ids and is_desirable differ in length")
            else:
                self.good.append(pl.DataFrame([doc_ids[1].copy(), good[1].copy()], schema=LABELED))
        if "pair_ids" in columns:
            faults = torn_rows(doc_ids, columns["pair_ids"], columns["is_chosen"])
            self.pair_faults += [f"row {self.rows + row}: {text}" for row, text in faults]

    def placed(self) -> pl.DataFrame:
        """Every document, copy and piece in the rows, and its tokens."""
        return pl.concat([pl.DataFrame(schema=PLACED), *self._found])

    @staticmethod
    def _by_row(lists: tuple[Any, Any], hit: Bools) -> Bools:
        """Per row: is any of its values hit?"""
        if not hit.any():
            return np.zeros(len(lists[0]) - 1, dtype=bool)
        running = np.concatenate([[0], np.cumsum(hit)])
        result: Bools = running[lists[0][1:]] > running[lists[0][:-1]]
        return result


def _list(column: pa.ListArray) -> Lists:
    """(offsets from 0, values) of a list column, sliced or not."""
    offsets = column.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], column.flatten().to_numpy(zero_copy_only=False)
