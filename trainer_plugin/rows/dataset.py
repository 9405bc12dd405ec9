"""`PackedDataset`: the packed rows of a packed dataset, memory-mapped, map-style.

A row costs two array slices per column (a few microseconds) whatever its length: nothing is copied, nothing
becomes a Python list. A row of an index packed dataset is gathered when it is asked for: its tokens are
copied. Map-style on purpose: the sampler's order is the only state, so a resumed run reads each row exactly
once, and every worker process maps the same pages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tokpack.errors import DataError, UsageError
from tokpack.on_disk.fingerprint import check_vocabulary, vocab_digest
from tokpack.on_disk.manifest import read_manifest
from tokpack.on_disk.token_files import PlannedRows, mapped_rows
from tokpack.packed_urls import local_folder
from tokpack.schema import IGNORE_INDEX, IS_DESIRABLE, LOSS_WEIGHTS, VALIDATION, is_preference
from tokpack.terminal.activity import counted


class _ListColumn(NamedTuple):
    """One list column of one record batch: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: np.ndarray
    offsets: np.ndarray


class PackedDataset:
    """Rows of a packed dataset as dictionaries of read-only NumPy views.

    `dataset[i]` -> `{"input_ids": int32[T], "labels": int32[T], "seq_lengths": int32[D], ...}`, the columns
    of `tokpack.schema.PACKED_SCHEMA`, of preference pairs `pair_ids` and `is_chosen` as well,
    and `is_desirable` of unpaired preferences.
    `select`, `shuffle` and `split` give views over the same mapping. Pickling keeps the folder and the
    order, not the data.

    Raises UsageError when the folder is no packed dataset, DataError when its shards and manifest disagree.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = local_folder(folder)
        self.manifest: dict[str, Any] = read_manifest(self.folder)
        self.capacity = int(self.manifest["capacity"])
        self._open()
        total = int(self._starts[-1])
        if total != int(self.manifest["rows"]):
            raise DataError(
                f"the shards hold {counted(total, 'row')}, the manifest says {self.manifest['rows']:,}",
                where=str(self.folder),
                hint="run `tokpack verify`, or copy the packed dataset again",
            )
        self.indices = np.arange(total)

    def _open(self) -> None:
        found = [rows for rows in mapped_rows(self.folder, self.manifest) if rows.num_rows]
        self._batches = [_Planned(rows) if isinstance(rows, PlannedRows) else _Mapped(rows) for rows in found]
        self._starts = [0, *accumulate(rows.num_rows for rows in found)]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest, "indices": self.indices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.capacity = int(self.manifest["capacity"])
        self._open()

    @property
    def is_preference(self) -> bool:
        """Whether the rows hold preference pairs."""
        return is_preference(self.manifest)

    @property
    def kind(self) -> str:
        """`preference` for preference pairs, `unpaired` for unpaired preferences, empty for other rows."""
        return str(self.manifest.get("kind", ""))

    def label_counts(self) -> tuple[int, int]:
        """Of unpaired preferences in this view: documents whose answers are good, and those of bad ones."""
        good = int(self._per_row(lambda columns: _sum_lists(columns[IS_DESIRABLE], np.asarray)).sum())
        return good, int(self.row_documents().sum()) - good

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = int(self.indices[index])
        chunk = bisect_right(self._starts, row) - 1
        return self._batches[chunk].row(row - self._starts[chunk])

    def __repr__(self) -> str:
        return f"PackedDataset({str(self.folder)!r}, rows={len(self):,}, capacity={self.capacity:,})"

    def select(self, indices: Sequence[int] | np.ndarray | range) -> PackedDataset:
        """The rows at `indices` of this view, in that order."""
        view = object.__new__(PackedDataset)
        view.__dict__.update(self.__dict__)
        view.indices = self.indices[np.asarray(indices, dtype=np.int64)]
        return view

    def shuffle(self, seed: int) -> PackedDataset:
        """All rows in an order that depends on `seed` alone."""
        return self.select(np.random.default_rng(seed).permutation(len(self)))

    def split(self, fraction: float, seed: int = 0) -> tuple[PackedDataset, PackedDataset]:
        """`(train, held_out)`: held out is `fraction` of the rows, at least one; both keep the row order."""
        if not 0 < fraction < 1:
            raise UsageError("the held-out fraction must lie between 0 and 1", where=f"fraction={fraction}")
        if len(self) < 2:
            raise UsageError("one row cannot be split in two", where=str(self.folder))
        order = np.random.default_rng(seed).permutation(len(self))
        held = min(len(self) - 1, max(1, round(fraction * len(self))))
        return self.select(np.sort(order[held:])), self.select(np.sort(order[:held]))

    def validation(self) -> PackedDataset | None:
        """The validation packed dataset packed beside this one, if there is one."""
        folder = self.folder / VALIDATION
        return PackedDataset(folder) if folder.is_dir() else None

    def row_tokens(self) -> np.ndarray:
        """Tokens of each row of this view: int64[rows]."""
        return self._per_row(lambda columns: _sum_lists(columns["seq_lengths"], lambda lengths: lengths))

    def seq_lengths(self) -> np.ndarray:
        """Lengths of all documents of this view, row after row: int32[documents]."""
        parts = [
            column.values[column.offsets[0] : column.offsets[-1]]
            for column in (columns["seq_lengths"] for columns in self._batches)
        ]
        counts = self._per_row(lambda columns: np.diff(columns["seq_lengths"].offsets), every=True)
        starts, taken = np.cumsum(counts) - counts, counts[self.indices]
        within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        lengths: np.ndarray = np.concatenate(parts)[np.repeat(starts[self.indices], taken) + within]
        return lengths

    def row_documents(self) -> np.ndarray:
        """Documents of each row of this view: int64[rows]."""
        return self._per_row(lambda columns: np.diff(columns["seq_lengths"].offsets))

    def row_trained(self) -> np.ndarray:
        """Tokens with a label in each row of this view: int64[rows]. Reads every label once."""
        return self._per_row(
            lambda columns: _sum_lists(columns["labels"], lambda labels: labels != IGNORE_INDEX)
        )

    def row_pairs(self) -> np.ndarray:
        """Sum of squared document lengths of each row, the attention cost: int64[rows]."""
        return self._per_row(
            lambda columns: _sum_lists(columns["seq_lengths"], lambda lengths: lengths.astype(np.int64) ** 2)
        )

    def row_longest(self) -> np.ndarray:
        """Longest document of each row: int64[rows]."""
        return self._per_row(
            lambda columns: [
                columns["seq_lengths"].values[start:end].max(initial=0)
                for start, end in pairwise(columns["seq_lengths"].offsets)
            ]
        )

    def _per_row(self, measure: Any, *, every: bool = False) -> np.ndarray:
        parts = [np.asarray(measure(columns), dtype=np.int64) for columns in self._batches]
        figures = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return figures if every else figures[self.indices]

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raise UsageError unless `tokenizer` has the vocabulary that the rows were made with.

        Packed datasets whose manifest has no `tokenizer.vocab_sha256` pass.
        """
        check_vocabulary(vocab_digest(tokenizer.get_vocab()), self.manifest, self.folder)

    def check_values(self, model: Any) -> None:
        """Raise DataError for rows that `model` cannot be trained or measured on: ids that it does not have.

        Reads every id and label of all files once. Sums do not show what was written wrong.
        """
        vocab_size = int(model.get_input_embeddings().weight.shape[0])
        for number, columns in enumerate(self._batches):
            if fault := _fault_of(columns, vocab_size):
                raise DataError(
                    f"rows hold what this model cannot read: {fault}",
                    where=f"{self.folder}, rows from {self._starts[number]:,}",
                    hint="run `tokpack verify`; pack again with the tokenizer of this model",
                )


def _fault_of(columns: _Mapped | _Planned, vocab_size: int) -> str:
    """What is wrong with the values of a batch; their lists fit together already."""
    ids, labels = columns["input_ids"], columns["labels"]
    ends = slice(ids.offsets[0], ids.offsets[-1]), slice(labels.offsets[0], labels.offsets[-1])
    tokens, trained = ids.values[ends[0]], labels.values[ends[1]]
    if (np.diff(ids.offsets) == 0).any():
        return "a row of no tokens"
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        return f"ids from {tokens.min()} to {tokens.max()}, where it has {vocab_size:,}"
    if ((trained != IGNORE_INDEX) & (trained != tokens)).any():
        return f"a label that is neither its token nor {IGNORE_INDEX}"
    if LOSS_WEIGHTS in columns:
        weights = columns[LOSS_WEIGHTS].values
        if not (np.isfinite(weights) & (weights >= 0)).all():
            return "a weight below 0, or one that is no number"
    return ""


class _Mapped:
    """A record batch of rows as they lie on the disk."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._columns = {name: _list_column(batch.column(name)) for name in batch.schema.names}

    def __getitem__(self, name: str) -> _ListColumn:
        return self._columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def row(self, number: int) -> dict[str, np.ndarray]:
        return {
            name: column.values[column.offsets[number] : column.offsets[number + 1]]
            for name, column in self._columns.items()
        }


class _Planned:
    """Rows that are gathered when they are asked for, one by one or a column of all."""

    def __init__(self, rows: PlannedRows) -> None:
        self.row = rows.row
        self._rows = rows

    def __getitem__(self, name: str) -> _ListColumn:
        return _list_column(self._rows.column(name))

    def __contains__(self, name: str) -> bool:
        return name in self._rows.schema.names


def _list_column(column: pa.Array) -> _ListColumn:
    """Views of a list array's values and offsets; `offsets` respects the slice that the array may be."""
    packed_bits = pa.types.is_boolean(column.type.value_type)  # is_chosen, is_desirable: copied
    values = column.values.to_numpy(zero_copy_only=not packed_bits)
    return _ListColumn(values, column.offsets.to_numpy(zero_copy_only=True))


def _sum_lists(column: _ListColumn, value: Any) -> np.ndarray:
    """Per-list sum of `value(values)`, by running sums: `np.add.reduceat` gets empty lists wrong."""
    first, last = int(column.offsets[0]), int(column.offsets[-1])
    running = np.concatenate([[0], np.cumsum(value(column.values[first:last]), dtype=np.int64)])
    bounds = running[column.offsets - first]
    return np.diff(bounds)
