"""An index packed dataset: its tokens once, in document order, and rows that only say which pieces they hold.

    tokens/pieces.arrow      one record a piece, by document and piece (`schema.PIECES_SCHEMA`)
    tokens/input_ids.npy     int32: the ids of all pieces, end to end
    tokens/trained.npy       uint8: 1 where a token has a label
    data-00000-of-00001.index   one record a row: numbers of pieces (`schema.INDEX_SCHEMA`), an Arrow stream

`PlannedRows` stands where a record batch of a shard would and gathers its columns when they are asked for.
Everything is mapped from disk; `trainer_plugin` reads rows by this module too. The folder may come from
anybody: the names are these and no others, and every place is checked before it is followed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokpack.arrays import Int32, Int64, UInt8
from tokpack.errors import DataError
from tokpack.frozen import frozen
from tokpack.on_disk.shards import INDEX, MOST_VALUES, mapped_shard, read_shard
from tokpack.ranges import copy_ranges, offsets_of
from tokpack.schema import (
    COPIES,
    IGNORE_INDEX,
    INDEX_SCHEMA,
    IS_DESIRABLE,
    LOSS_WEIGHTS,
    PAIR_WIDTH,
    PIECES_SCHEMA,
    TOKEN_FILES,
    packed_schema,
)

PIECES, INPUT_IDS, TRAINED = TOKEN_FILES
DTYPES: dict[str, str] = {INPUT_IDS: "<i4", TRAINED: "|u1"}
HEADER_BYTES = 128
PIECES_AT_ONCE = 1 << 14
PER_TOKEN = ("input_ids", "labels")
OF_PIECE = {"seq_lengths": "length", "pieces": "piece"}
UNTRAINED = np.int32(IGNORE_INDEX)
Copy = Callable[[npt.NDArray[Any], Int64, Int32], npt.NDArray[Any]]
Range = slice  # which `PlannedRows.slice` hides
DIGEST_KEY = b"token_files"
"""In the metadata of an index shard: the digest of the token files whose pieces it numbers."""


def npy_header(dtype: str, count: int) -> bytes:
    """The first bytes of a `.npy` file of one dimension (numpy's format 1.0)."""
    said = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({count},), }}".encode()
    start = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return start + said.ljust(HEADER_BYTES - len(start) - 1) + b"\n"


@frozen
class TokenFiles:
    """The pieces of a folder, mapped: arrays of one record a piece, then of one a token."""

    doc_id: Int64
    piece: Int32
    start: Int64
    """Its first token's place."""
    length: Int32
    trained: Int32
    """Of its tokens, how many have a label."""
    input_ids: Int32
    marks: UInt8
    """1 where the token has a label."""

    @staticmethod
    def open(folder: Path, manifest: dict[str, Any]) -> TokenFiles:
        """Raises DataError for files that are not there, not of this form, or do not fit each other."""
        if {file["file"] for file in manifest.get("token_files", [])} != set(TOKEN_FILES):
            raise _damaged(folder / PIECES, "the manifest does not name the token files")
        columns = [np.empty(0, field.type.to_pandas_dtype()) for field in PIECES_SCHEMA]
        batches = list(read_shard(folder / PIECES))
        if len(batches) > 1 or any(batch.schema != PIECES_SCHEMA for batch in batches):
            raise _damaged(folder / PIECES, "other columns, or several parts")
        for batch in batches:
            if any(column.null_count for column in batch.columns):
                raise _damaged(folder / PIECES, "nulls")
            columns = [column.to_numpy() for column in batch.columns]
        _, _, start, length, _ = columns
        ends = start + length
        if (length <= 0).any() or (start != np.append(0, ends)[:-1]).any():
            raise _damaged(folder / PIECES, "the pieces do not lie end to end")
        total = int(ends[-1]) if len(ends) else 0
        return TokenFiles(*columns, *(_mapped(folder / name, total) for name in (INPUT_IDS, TRAINED)))

    def faults(self) -> Iterator[str]:
        """What is wrong with them: every piece is there once, in order, with as many labels as it says."""
        document, piece = np.diff(self.doc_id), np.diff(self.piece)
        for number in np.flatnonzero((document < 0) | ((document == 0) & (piece <= 0)))[:3]:
            yield f"piece {number + 1} is not behind the one before it"
        for first in range(0, len(self.start), PIECES_AT_ONCE):
            some = slice(first, first + PIECES_AT_ONCE)
            start = self.start[some]
            marks = self.marks[start[0] : start[-1] + self.length[some][-1]]
            wrong = np.add.reduceat(marks != 0, start - start[0], dtype=np.int64) != self.trained[some]
            for number in np.flatnonzero(wrong)[:3]:
                yield f"piece {first + number} says another number of labels than it has"

    def flat(self) -> tuple[Int64, Int32, UInt8]:
        """(offsets, ids, marks): as a batch of the token store, for `write_shards`."""
        return np.append(self.start, len(self.input_ids)), self.input_ids, self.marks


def _mapped(path: Path, count: int) -> npt.NDArray[Any]:
    dtype = np.dtype(DTYPES[f"{path.parent.name}/{path.name}"])
    header = npy_header(dtype.str, count)
    try:
        with path.open("rb") as file:
            right = file.read(HEADER_BYTES) == header
        if not right or path.stat().st_size != HEADER_BYTES + count * dtype.itemsize:
            raise _damaged(path, f"not {count:,} tokens, as pieces.arrow says")
        if not count:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, "r", HEADER_BYTES).view(np.ndarray)
    except FileNotFoundError:
        raise DataError(
            "a token file is missing", where=str(path), hint="copy the packed dataset again"
        ) from None


class PlannedRows:
    """Rows of an index shard, in the form of a record batch; `schema` is that of packed rows.

    A column of tokens is copied together when it is asked for; a single row in about 20 microseconds.
    """

    def __init__(self, store: TokenFiles, plan: pa.RecordBatch, schema: pa.Schema) -> None:
        self.store, self.schema, self.num_rows, self._plan = store, schema, plan.num_rows, plan
        records = plan.column("records")
        self.offsets: Int32 = records.offsets.to_numpy()
        """Of the records of each row, from `offsets[0]` on."""
        self._values: Int64 = records.values.to_numpy()
        self._copies = plan.column(COPIES).values.to_numpy() if COPIES in plan.schema.names else None

    @property
    def records(self) -> Int64:
        """Numbers of all pieces, row after row."""
        return self._values[self.offsets[0] : self.offsets[-1]]

    def row(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """The columns of one row."""
        which = slice(self.offsets[number], self.offsets[number + 1])
        return self._columns(which, self.schema.names, _joined)

    def column(self, name: str) -> pa.ListArray:
        return self._lists([name])[0]

    def slice(self, first: int, count: int) -> PlannedRows:
        return PlannedRows(self.store, self._plan.slice(first, count), self.schema)

    def gathered(self) -> pa.RecordBatch:
        """All of them, as a record batch in memory."""
        return pa.record_batch(self._lists(self.schema.names), schema=self.schema)

    def _lists(self, names: list[str]) -> list[pa.ListArray]:
        columns = self._columns(slice(self.offsets[0], self.offsets[-1]), names, copy_ranges)
        documents = self.offsets - self.offsets[0]
        tokens = offsets_of(self.store.length[self.records])[documents].astype(np.int32)
        offsets = {name: pa.array(tokens if name in PER_TOKEN else documents) for name in names}
        return [pa.ListArray.from_arrays(offsets[name], pa.array(columns[name])) for name in names]

    def _columns(self, which: Range, names: list[str], copy: Copy) -> dict[str, npt.NDArray[Any]]:
        found: dict[str, npt.NDArray[Any]] = {}
        if any(name in PER_TOKEN for name in names):
            found.update(self._tokens(which, copy))
        for name in names:
            if name not in found:
                found[name] = self._numbers(name, which)
        return found

    def _tokens(self, which: Range, copy: Copy) -> dict[str, Int32]:
        """`input_ids` and `labels`."""
        starts, lengths = self.store.start[self._values[which]], self.store.length[self._values[which]]
        ids = copy(self.store.input_ids, starts, lengths)
        marks = copy(self.store.marks, starts, lengths)
        return {"input_ids": ids, "labels": np.where(marks, ids, UNTRAINED)}

    def _numbers(self, name: str, which: Range) -> npt.NDArray[Any]:
        """A column of documents."""
        found: npt.NDArray[Any]
        if name == COPIES and self._copies is not None:
            found = self._copies[which]
            return found
        found = getattr(self.store, OF_PIECE.get(name, "doc_id"))[self._values[which]]
        if name == "pair_ids":
            found = found // PAIR_WIDTH
        elif name == "is_chosen":
            found = found % PAIR_WIDTH == 0
        return found


def _joined(flat: npt.NDArray[Any], starts: Int64, lengths: Int32) -> npt.NDArray[Any]:
    """The few ranges of one row: `copy_ranges` looks for neighbors first, which takes longer here."""
    ranges = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
    return np.concatenate([flat[:0], *[flat[first:last] for first, last in ranges]])


Rows: TypeAlias = "pa.RecordBatch | PlannedRows"


def token_files_digest(files: list[dict[str, Any]]) -> str:
    """One digest for the token files of a manifest."""
    sums = {file["file"]: file["sha256"] for file in files}
    return hashlib.sha256("".join(sums[name] for name in TOKEN_FILES).encode()).hexdigest()


def is_index(manifest: dict[str, Any]) -> bool:
    """Whether the packed dataset keeps its tokens once, and rows as a plan."""
    return any(shard["file"].endswith(INDEX) for shard in manifest["shards"])


def mapped_rows(folder: Path, manifest: dict[str, Any]) -> list[Rows]:
    """All rows in order, mapped from disk: Parquet shards are unpacked once, into the cache."""
    columns, shards = packed_schema(manifest), manifest["shards"]
    if is_index(manifest):
        return [rows for part in planned_shards(folder, manifest) for rows in part]
    return [b for s in shards for b in mapped_shard(folder / s["file"], s["sha256"], columns)]


def planned_shards(folder: Path, manifest: dict[str, Any]) -> Iterator[Iterator[PlannedRows]]:
    """The rows of each shard of an index packed dataset."""
    store = TokenFiles.open(folder, manifest)
    for shard in manifest["shards"]:
        yield _planned(folder / shard["file"], store, manifest)


def _planned(path: Path, store: TokenFiles, manifest: dict[str, Any]) -> Iterator[PlannedRows]:
    columns = packed_schema(manifest)
    if {LOSS_WEIGHTS, IS_DESIRABLE} & set(columns.names):
        raise _damaged(path, "the manifest names weights or labels, which it does not hold")
    wanted = INDEX_SCHEMA.append(columns.field(COPIES)) if COPIES in columns.names else INDEX_SCHEMA
    digest = token_files_digest(manifest["token_files"])
    for plan in read_shard(path):
        if not plan.schema.equals(wanted):
            raise _damaged(path, f"columns are {', '.join(map(str, plan.schema))[:200]}")
        if (plan.schema.metadata or {}).get(DIGEST_KEY) != digest.encode():
            raise _damaged(path, "its rows are of other token files")
        if fault := _plan_fault(plan, store):
            raise _damaged(path, fault)
        yield PlannedRows(store, plan, columns)


def _plan_fault(plan: pa.RecordBatch, store: TokenFiles) -> str:
    lists = [plan.column(name) for name in plan.schema.names]
    if any(column.null_count or column.flatten().null_count for column in lists):
        return "the plan holds nulls"
    records, *copies = (column.flatten().to_numpy() for column in lists)
    if len(records) and (records.min() < 0 or records.max() >= len(store.length)):
        return "a row names a piece that is not there"
    sizes = [np.diff(column.offsets.to_numpy()) for column in lists]
    if not all(np.array_equal(sizes[0], size) for size in sizes) or any((c < 0).any() for c in copies):
        return "records and copies differ in length, or copies below 0"
    if int(store.length[records].sum(dtype=np.int64)) > MOST_VALUES:
        return "rows of more tokens together than tokpack writes"
    return ""


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"{path.name} is not as tokpack writes it: {why}",
        where=str(path),
        hint="run `tokpack verify`, or copy the packed dataset again",
    )
