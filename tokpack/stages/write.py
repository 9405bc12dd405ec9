"""Write: gather token ranges from the store into packed rows, shard by shard.

Shards are Arrow IPC streams with the two JSON files beside them that make the folder a saved `datasets`
dataset. Memory is bounded by one chunk of rows, whatever the size of the data.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokpack.arrays import Bools, Float32, Int32, Int64, UInt8
from tokpack.engine import default_workers
from tokpack.engine.local import ordered_map
from tokpack.files.durable import sync_file
from tokpack.frozen import frozen
from tokpack.on_disk.shards import ARROW, shard_writer
from tokpack.ranges import counted_in, offsets_of
from tokpack.schema import COPIES, IGNORE_INDEX, IS_DESIRABLE, LOSS_WEIGHTS, PAIR_WIDTH, TRAINED
from tokpack.settings.config import ShardFormat, WriteConfig

CHUNK_TOKENS = 1 << 20
BYTES_PER_TOKEN = 8
HASHED_LATER = 4
"""Writes that may wait for their digest."""

Ahead = Callable[[int, int], None]
"""Is told which rows are to be gathered next, from the first to before the last."""


def nothing_ahead(first: int, last: int) -> None:
    """Rows come as they come."""


class FlatBatch(NamedTuple):
    """Tokens of a batch of pieces, end to end."""

    offsets: Int64
    ids: Int32
    marks: UInt8 | Int32
    """The store's flags (uint8), or labels as they are (int32)."""
    weights: Float32 | None = None
    """By how much each token counts in the loss; None where all count in full."""


@frozen
class RowContents:
    """The documents of each row, in order: row r holds `order[row_offsets[r]:row_offsets[r + 1]]`."""

    order: npt.NDArray[np.signedinteger[Any]]
    """Piece numbers, into `Placement`'s arrays."""
    row_offsets: Int64

    @staticmethod
    def of(row_of_piece: Int32, rows_in_order: Int64) -> RowContents:
        """Pieces keep input order within a row; rows come as `rows_in_order` says."""
        place = np.empty(len(rows_in_order), dtype=np.int32)
        place[rows_in_order] = np.arange(len(rows_in_order), dtype=np.int32)
        at = place[row_of_piece]
        counts = counted_in(at, len(rows_in_order))
        return RowContents(np.argsort(at, kind="stable").astype(np.int32), offsets_of(counts))


@frozen
class Placement:
    """Where each piece lies in the token store, and what it is. Arrays of one length."""

    batch: npt.NDArray[np.signedinteger[Any]]
    index: npt.NDArray[np.signedinteger[Any]]
    """Record within the batch."""
    length: Int32
    doc_id: npt.NDArray[np.signedinteger[Any]]
    number: npt.NDArray[np.signedinteger[Any]]
    copy: npt.NDArray[np.signedinteger[Any]]
    desirable: Bools
    """Of unpaired preferences: whether the answer is a good one; true of all other documents."""

    def take(self, chosen: Int64) -> Placement:
        """Those pieces alone, in that order."""
        return Placement(*(getattr(self, field.name)[chosen] for field in fields(self)))


@frozen
class Written:
    shards: list[dict[str, Any]]
    """file, rows, sha256 of each."""
    token_files: list[dict[str, Any]]
    """file, sha256 of each, of an index packed dataset."""
    rows: int
    tokens: int
    trained: int


@frozen
class Shard:
    """A shard to be written: the rows from `first` to before `last`."""

    name: str
    first: int
    last: int


@frozen
class WrittenShard:
    record: dict[str, Any]
    """file, rows, sha256."""
    tokens: int
    trained: int


WriteShards = Callable[[list[Shard]], Iterable[WrittenShard]]
"""Writes them, and gives what was written in their order."""


def write_shards(
    out: Path,
    contents: RowContents,
    pieces: Placement,
    batches: Callable[[int], FlatBatch],
    schema: pa.Schema,
    settings: WriteConfig,
    progress: Callable[[int], None] = lambda tokens: None,
    ahead: Ahead = nothing_ahead,
    elsewhere: WriteShards | None = None,
) -> Written:
    """Write all rows as shards of near-equal row counts. `batches(i)` maps batch i of the store; `schema` is
    that of the rows. Shards are sized by their tokens, before compression. `elsewhere` writes them instead of
    this process."""
    rows = len(contents.row_offsets) - 1
    size = int(pieces.length[contents.order].sum(dtype=np.int64)) * BYTES_PER_TOKEN
    count = max(1, min(rows, -(-size // (settings.shard_mb << 20))))
    bounds = [rows * i // count for i in range(count + 1)]
    shards = [
        Shard(f"data-{number:05}-of-{count:05}.{settings.shard_format}", *bounds[number : number + 2])
        for number in range(count)
    ]
    if elsewhere is not None:
        written = list(elsewhere(shards))
    else:
        written = [
            write_shard(out / shard.name, shard, contents, pieces, batches, schema, progress, ahead)
            for shard in shards
        ]
    records = [shard.record for shard in written]
    digest = hashlib.sha256("".join(record["sha256"] for record in records).encode()).hexdigest()
    if settings.shard_format == ARROW:
        dataset_files(out, [record["file"] for record in records], schema, digest[:16])
    tokens, trained = sum(shard.tokens for shard in written), sum(shard.trained for shard in written)
    return Written(records, [], rows, tokens, trained)


def write_shard(
    path: Path,
    shard: Shard,
    contents: RowContents,
    pieces: Placement,
    batches: Callable[[int], FlatBatch],
    schema: pa.Schema,
    progress: Callable[[int], None] = lambda tokens: None,
    ahead: Ahead = nothing_ahead,
) -> WrittenShard:
    """The rows of one shard, gathered by threads."""
    tokens = trained = 0
    shard_format = cast(ShardFormat, shard.name.rpartition(".")[2])
    with hashed_file(path) as (sink, digest), shard_writer(sink, schema, shard_format) as writer:
        chunks = _told(ahead, chunks_of(contents, pieces, shard.first, shard.last))
        gather = partial(_gather, contents, pieces, batches, schema)
        for record, labels in ordered_map(gather, chunks, default_workers()):
            writer.write_batch(record)
            tokens += len(labels)
            trained += int(np.count_nonzero(labels != IGNORE_INDEX))
            progress(len(labels))
    record = {"file": shard.name, "rows": shard.last - shard.first, "sha256": digest.hexdigest()}
    return WrittenShard(record, tokens, trained)


def _told(ahead: Ahead, chunks: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for first, last in chunks:
        ahead(first, last)
        yield first, last


def chunks_of(contents: RowContents, pieces: Placement, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of at most about CHUNK_TOKENS tokens."""
    bounds = contents.row_offsets[first : last + 1]
    ends = offsets_of(pieces.length[contents.order[bounds[0] : bounds[-1]]])[bounds - bounds[0]]
    start = 0
    while start < last - first:
        stop = int(np.searchsorted(ends, ends[start] + CHUNK_TOKENS, side="right")) - 1
        stop = min(max(stop, start + 1), last - first)
        yield first + start, first + stop
        start = stop


def _gather(
    contents: RowContents,
    pieces: Placement,
    batches: Callable[[int], FlatBatch],
    schema: pa.Schema,
    rows: tuple[int, int],
) -> tuple[pa.RecordBatch, Int32]:
    """Rows `first` to before `last` as one record batch, and their labels."""
    first, last = rows
    row_offsets = contents.row_offsets[first : last + 1] - contents.row_offsets[first]
    chosen = contents.order[contents.row_offsets[first] : contents.row_offsets[last]]
    lengths = pieces.length[chosen]
    targets = offsets_of(lengths)
    weighted = schema.names[-1] == LOSS_WEIGHTS
    ids, trained, *weights = labeled_tokens(pieces, chosen, batches, weighted)
    labels = np.where(trained, ids, np.int32(IGNORE_INDEX))
    token_offsets = pa.array(targets[row_offsets].astype(np.int32))
    document_offsets = pa.array(row_offsets.astype(np.int32))
    lists = [(token_offsets, ids), (token_offsets, labels), (document_offsets, lengths)]
    arrays = [pa.ListArray.from_arrays(offsets, pa.array(values)) for offsets, values in lists]
    doc_ids = pieces.doc_id[chosen]
    of_documents: dict[str, npt.NDArray[Any]] = {
        "doc_ids": doc_ids,
        "pieces": pieces.number[chosen],
        "pair_ids": doc_ids // PAIR_WIDTH,
        "is_chosen": doc_ids % PAIR_WIDTH == 0,
        IS_DESIRABLE: pieces.desirable[chosen],
        COPIES: pieces.copy[chosen],
    }
    for name in schema.names[len(arrays) : len(schema.names) - weighted]:
        values = pa.array(of_documents[name], schema.field(name).type.value_type)
        arrays.append(pa.ListArray.from_arrays(document_offsets, values))
    for weight in weights:
        counted = np.where(labels != IGNORE_INDEX, weight, np.float32(0))
        arrays.append(pa.ListArray.from_arrays(token_offsets, pa.array(counted)))
    return pa.record_batch(arrays, schema=schema), labels


def labeled_tokens(
    pieces: Placement, chosen: Int64, batches: Callable[[int], FlatBatch], weighted: bool = False
) -> tuple[npt.NDArray[Any], ...]:
    """Ids of the chosen pieces end to end, which of them get a label, and weights where wanted."""
    ids, marks, *weights = copy_pieces(pieces.batch[chosen], pieces.index[chosen], batches, weighted)
    trained = marks & TRAINED != 0 if marks.dtype == np.uint8 else marks != IGNORE_INDEX
    trained[offsets_of(pieces.length[chosen])[:-1]] = False  # nothing before it in its document predicts it
    return ids, trained, *weights


def copy_pieces(
    batch: npt.NDArray[np.signedinteger[Any]],
    index: npt.NDArray[np.signedinteger[Any]],
    batches: Callable[[int], FlatBatch],
    weighted: bool,
) -> Iterator[npt.NDArray[Any]]:
    """Ids, flags, and weights where wanted, of the pieces end to end: batch by batch first, then in order, a
    memcpy a piece."""
    by_batch = np.argsort(batch, kind="stable")
    numbers, starts = np.unique(batch[by_batch], return_index=True)
    found = [batches(int(number)) for number in numbers]
    columns: list[list[npt.NDArray[Any]]] = [[b.ids for b in found], [b.marks for b in found]]
    if weighted:
        columns.append([np.ones(len(b.ids), np.float32) if b.weights is None else b.weights for b in found])
    if len(found) == 1:
        records, in_order = [pa.array(index)], None
    else:
        records = [pa.array(index[positions]) for positions in np.split(by_batch, starts[1:])]
        in_order = pa.array(np.argsort(by_batch, kind="stable"))
    for column in columns:
        stored = [(b.offsets, values) for b, values in zip(found, column, strict=True)]
        parts = [_as_binary(*flat).take(which) for flat, which in zip(stored, records, strict=True)]
        moved = parts[0] if in_order is None else pa.concat_arrays(parts).take(in_order)
        yield np.frombuffer(moved.buffers()[2], stored[0][1].dtype)


def _as_binary(offsets: Int64, values: npt.NDArray[Any]) -> pa.LargeBinaryArray:
    """The lists as byte strings, values not copied: Arrow takes bytes by memcpy, lists number by number."""
    place = pa.py_buffer(offsets * values.itemsize)
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(offsets) - 1, [None, place, pa.py_buffer(values)]
    )


def dataset_files(folder: Path, files: list[str], schema: pa.Schema, fingerprint: str) -> None:
    """`dataset_info.json` and `state.json`, for `datasets.load_from_disk`; all columns are lists."""
    features = {
        field.name: {"feature": {"dtype": str(field.type.value_type), "_type": "Value"}, "_type": "List"}
        for field in schema
    }
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    write_json(folder / "dataset_info.json", info)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in files],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state)


def write_json(path: Path, data: Any) -> None:
    """Piece by piece, as `json.dumps` would hold ten times the text; surrogates as JSON's own escapes."""
    held = io.BytesIO()
    text = io.TextIOWrapper(held, "utf-8", "backslashreplace", newline="\n")
    json.dump(data, text, ensure_ascii=False, indent=2)
    text.write("\n")
    text.flush()
    path.write_bytes(held.getbuffer())


class _HashingSink:
    """A file that hashes what passes through, in a thread: Arrow's buffers own what they hold."""

    def __init__(self, file: Any, digest: Any, hasher: Executor) -> None:
        self._file, self._digest, self._hasher = file, digest, hasher
        self._passed: deque[Future[None]] = deque()
        self.closed = False

    def write(self, data: Any) -> int:
        self._passed.append(self._hasher.submit(self._digest.update, data))
        if len(self._passed) > HASHED_LATER:
            self._passed.popleft().result()
        return int(self._file.write(data))

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def hashed_file(path: Path) -> Iterator[tuple[pa.NativeFile, Any]]:
    """A file to write, and the digest of it, which is complete when the file is closed. What was written is
    on its way to the disk then."""
    digest = hashlib.sha256()
    with path.open("wb") as file, ThreadPoolExecutor(1, "tokpack-hash") as hasher:
        yield pa.PythonFile(_HashingSink(file, digest, hasher), "w"), digest
    Thread(target=_sync_ahead, args=(path,), name="tokpack-sync", daemon=True).start()


def _sync_ahead(path: Path) -> None:
    """Nothing is believed before all is synced: errors show there."""
    with suppress(OSError):
        sync_file(path)
