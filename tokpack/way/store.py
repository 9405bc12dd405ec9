"""The token store: what pass 1 leaves on disk, one batch at a time, and what pass 2 maps back.

    .work/run.json                  the fingerprint of the run that owns the folder
    .work/batch-00007.arrow         ids and flags, one record a piece (schema.STORE_SCHEMA)
    .work/batch-00007.docs.arrow    one record a document, and in the metadata what else the batch produced
    .work/batch-00007-00001...      the second batch of item 7, where an item is read in several

Documents are numbered from 0 in each batch, rows from 0 in each item; the corpus puts them in their place.
Both are written beside, synced and renamed, the documents last: their presence commits the batch. The syncing
is done behind the run, by one thread, so that no worker waits for the disk. The documents' file ends in a
digest of itself and holds one of the tokens' file and of the run's settings: what a later run finds is taken
only when all of them are right, and made again otherwise. A crash or a power cut loses at most the batches in
flight; the same command finds the rest.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from tokpack.errors import DataError
from tokpack.files.durable import part_of, sync_file, sync_folder, write_durably
from tokpack.files.own_files import is_store_file, remove_own
from tokpack.frozen import frozen
from tokpack.schema import STORE_SCHEMA, STORED_WEIGHTS
from tokpack.stages.read.unchanged import Stamp
from tokpack.stages.scratch import advise
from tokpack.stages.truncate import Pieces
from tokpack.stages.write import FlatBatch
from tokpack.way.store_record import RECORD, digest_of, not_there, read_record, record_of, refuse_other

COMMITTED = "batch-[0-9][0-9][0-9][0-9][0-9]*.docs.arrow"
INPUT_BYTES = "input_bytes"
"""Of what else a batch produced: the bytes of input that were read for it."""
Key = tuple[int, int]
"""A batch: the number of its item, and its own among the item's, from 0."""
DIGEST_BYTES = 16
"""Of the documents' file, at its end: the xxh3 of what is before."""


@frozen
class Batch:
    """A committed batch. `docs` columns: doc_id (from 0), source, row (within the item), drop_reason,
    drop_detail, hash_high, hash_low, tokens (before truncation), cut, variant [, drawn, copies, quality]."""

    docs: pl.DataFrame
    pieces: pl.DataFrame
    """document (position within the batch), number, length, trained."""
    quarantined: list[dict[str, Any]]
    """Records as of `quarantine.jsonl`, numbered as `docs` are."""
    counters: dict[str, int]
    paths: dict[str, int]
    examples: dict[str, list[str]]
    spared: dict[int, str]
    """Documents that are wanted -> the reason that is overruled."""
    rows: int
    """Rows that were read for it."""
    lines: dict[int, int]
    """Source -> rows that were read of it, blank lines included."""
    sha256: dict[int, str]
    """Source -> digest, of those that were read whole when the batch was made."""
    last: bool
    """Whether its item ends with it."""
    over: dict[str, Any]  # by `passed_over.record_of`


class TokenStore:
    """A work folder. Raises UsageError when it belongs to another run, or with `joins` where none began it.

    `lasts`: a later run may go on with it, so batches are synced; else it goes with the run.
    """

    def __init__(
        self, folder: Path, fingerprint: dict[str, Any], lasts: bool = True, joins: bool = False
    ) -> None:
        self.folder, self.lasts = folder, lasts
        if not joins:
            folder.mkdir(parents=True, exist_ok=True)
        self._run = digest_of(fingerprint)
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="tokpack-sync")
        self._syncing: list[Future[None]] = []
        self.made_again: set[Key] = set()
        self._begun = {path.name for path in folder.glob(COMMITTED)}
        found = read_record(folder / RECORD)
        if found is None and joins:
            raise not_there(str(folder))
        if found is not None and (self._begun or joins):  # nothing committed, nothing to protect
            refuse_other(found, fingerprint, str(folder), "another -o")
        else:
            write_durably(folder / RECORD, record_of(fingerprint), part_of(folder / RECORD))

    @property
    def place(self) -> Path | str:
        """What another process opens it by."""
        return self.folder.resolve()

    def is_begun(self, key: Key) -> bool:
        """Whether the batch has its name here, whatever it holds."""
        return docs_name(key) in self._begun

    def has(self, key: Key) -> bool:
        """Whether an earlier run with these settings committed the batch, and it is as it was written."""
        if not self.is_begun(key):
            return False
        right = self._sound(key) is not None
        if not right:
            self.made_again.add(key)
        return right

    def _sound(self, key: Key) -> dict[str, Any] | None:
        """What else a committed batch produced; None where it is not as it was written."""
        try:
            _, meta = self._read_docs(key)
            right = meta["run"] == self._run and "last" in meta and self._are_there(key, meta["tokens"])
        except (DataError, OSError, pa.ArrowException, KeyError):
            return None
        return meta if right else None

    def _are_there(self, key: Key, digest: str) -> bool:
        """Whether the tokens of a batch are there, as they were written."""
        with pa.memory_map(str(self._tokens_path(key))) as file:
            found = xxhash.xxh3_128_hexdigest(file.read_buffer())
        return bool(found == digest)

    def finished(self, item: int, stamp: Stamp) -> int | None:
        """Bytes of input behind an item that earlier runs committed whole, of a file that had this stamp.

        None where it has to be read: it is not there, not as it was written, or its file was another one.
        """
        total = 0
        for number in count():
            key = (item, number)
            meta = self._sound(key) if self.is_begun(key) else None
            if meta is None or meta["stamp"] != [list(file) for file in stamp]:
                return None
            total += int(meta[INPUT_BYTES])
            if meta["last"]:
                return total
        raise AssertionError

    def input_bytes(self) -> int:
        """Of the batches that an earlier run committed, but those that are damaged."""
        return sum(map(self._input_bytes, self._begun))

    def _input_bytes(self, name: str) -> int:
        try:
            return int(read_docs(self.folder / name)[1][INPUT_BYTES])
        except (DataError, OSError, pa.ArrowException, KeyError):
            return 0

    def settle(self) -> None:
        """Wait until every batch is on the disk. Raises what went wrong on the way there."""
        pending, self._syncing = self._syncing, []
        for future in pending:
            future.result()
        if pending and self.lasts:
            sync_folder(self.folder)

    @property
    def warnings(self) -> list[str]:
        """That batches of an unfinished run were made again."""
        if not self.made_again:
            return []
        numbers = ", ".join(
            f"{item}.{number}" if number else str(item) for item, number in sorted(self.made_again)[:5]
        )
        total = len(self.made_again)
        what = f"batches {numbers}{' and others' if total > 5 else ''}" if total > 1 else f"batch {numbers}"
        return [f"the unfinished run was damaged or cut off: {what} made again"]

    def commit(
        self, key: Key, block_hash: str, docs: pl.DataFrame, pieces: Pieces, rest: dict[str, Any]
    ) -> None:
        """Write one batch: `rest` holds the other fields of `Batch`."""
        tokens = pieces.tokens
        columns_of_tokens: list[np.ndarray[Any, Any]] = [tokens.input_ids, tokens.flags]
        columns_schema = STORE_SCHEMA
        if tokens.weights is not None:
            columns_of_tokens.append(tokens.weights)
            columns_schema = STORE_SCHEMA.append(STORED_WEIGHTS)
        place = pa.array(tokens.offsets.astype(np.int32))
        lists = [pa.ListArray.from_arrays(place, pa.array(values)) for values in columns_of_tokens]
        doc_ids = docs["doc_id"].to_numpy()[pieces.document]
        columns = [
            pa.array(doc_ids),
            pa.array(pieces.number),
            pa.array(pieces.trained.astype(np.int32)),
            *lists,
        ]
        flat = _as_ipc(pa.record_batch(columns, schema=columns_schema))
        digests = {"block": block_hash, "tokens": xxhash.xxh3_128_hexdigest(flat), "run": self._run}
        meta = json.dumps(digests | rest, ensure_ascii=False)
        table = _as_ipc(docs.to_arrow().replace_schema_metadata({"batch": meta}))
        self._put(key, flat, digests["tokens"], table.to_pybytes() + xxhash.xxh3_128_digest(table))

    def _put(self, key: Key, tokens: pa.Buffer | bytes, digest: str, docs: bytes) -> None:
        """Both files of a batch; `digest` is that of the tokens."""
        paths = self._tokens_path(key), self._docs_path(key)
        parts = tuple(map(part_of, paths))
        with _named(self.folder):
            parts[0].write_bytes(tokens)
            parts[1].write_bytes(docs)
        self._syncing.append(self._behind.submit(self._publish, parts, paths))

    def take(self, key: Key, tokens: bytes, docs: bytes) -> bool:
        """Commit a batch that was written elsewhere. False, and nothing done, where it is not as a run with
        these settings wrote it."""
        try:
            _, meta = parsed_docs(docs, str(self.folder))
            right = bool(meta["run"] == self._run and meta["tokens"] == xxhash.xxh3_128_hexdigest(tokens))
        except (DataError, pa.ArrowException, KeyError):
            return False
        if right:
            self._put(key, tokens, meta["tokens"], docs)
            self._begun.add(docs_name(key))
        return right

    def _publish(self, parts: tuple[Path, ...], paths: tuple[Path, ...]) -> None:
        with _named(self.folder):
            for part, path in zip(parts, paths, strict=True):
                if self.lasts:
                    sync_file(part)
                part.replace(path)

    def _read_docs(self, key: Key) -> tuple[pa.Table, dict[str, Any]]:
        return read_docs(self._docs_path(key))

    def load(self, key: Key) -> Batch:
        table, meta = self._read_docs(key)
        docs, record = pl.DataFrame(pl.from_arrow(table)).clone(), mapped_front(self._tokens_path(key))
        pieces = pl.DataFrame(
            {
                "document": np.searchsorted(docs["doc_id"].to_numpy(), record.column("doc_id").to_numpy()),
                "number": record.column("piece").to_numpy(),
                "length": np.diff(record.column("input_ids").offsets.to_numpy()),
                "trained": record.column("trained").to_numpy(),
            }
        )
        spared = {int(doc_id): reason for doc_id, reason in meta["spared"].items()}
        lines, sha256 = ({int(n): value for n, value in meta[name].items()} for name in ("lines", "sha256"))
        rest = {name: meta[name] for name in ("quarantined", "counters", "paths", "examples", "rows", "last")}
        rest["over"] = meta.get("over", {})  # one of an unfinished run may have none
        return Batch(docs, pieces, **rest, spared=spared, lines=lines, sha256=sha256)

    def is_of(self, key: Key, block_hash: str) -> bool:
        """Whether this input made a committed batch."""
        return bool(self._read_docs(key)[1]["block"] == block_hash)

    def check_block(self, key: Key, block_hash: str, source: str) -> None:
        """Raises DataError when the input that made a committed batch, of `source`, has changed since."""
        if not self.is_of(key, block_hash):
            raise DataError(
                "the input changed since the unfinished run",
                where=source,
                hint=f"put back what it was, or give --overwrite to start over; the store is {self.place}",
            )

    def tokens(self, key: Key) -> pa.RecordBatch:
        """The batch's ids and flags, mapped."""
        return mapped_tokens(self.folder, key)

    def remove(self) -> None:
        """Delete the store's own files, and its folder when nothing else is in it."""
        remove_store(self.folder)

    def _tokens_path(self, key: Key) -> Path:
        return self.folder / f"{batch_name(key)}.arrow"

    def _docs_path(self, key: Key) -> Path:
        return self.folder / docs_name(key)


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """An error of the system that names no file names the folder."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise


def mapped_tokens(folder: Path, key: Key) -> pa.RecordBatch:
    """Ids and flags of a batch of the store in the folder, memory-mapped; the mapping outlives the closed
    file."""
    with pa.memory_map(str(folder / f"{batch_name(key)}.arrow")) as file:
        return pa.ipc.open_file(file).get_batch(0)


def mapped_front(path: Path) -> pa.RecordBatch:
    """The same for the columns before the tokens: nothing else is read ahead."""
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    advise(pages, "MADV_RANDOM")
    whole = pa.py_buffer(pages)
    record = pa.ipc.open_file(whole).get_batch(0)
    if tokens := record.column("input_ids").values.buffers()[1]:
        advise(pages, "MADV_WILLNEED", 0, tokens.address - whole.address)
    return record


def batch_name(key: Key) -> str:
    item, number = key
    return f"batch-{item:05}-{number:05}" if number else f"batch-{item:05}"


def docs_name(key: Key) -> str:
    return f"{batch_name(key)}.docs.arrow"


def read_docs(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """The documents of a batch, and what else it produced. Raises DataError for a damaged file."""
    return parsed_docs(path.read_bytes(), str(path))


def parsed_docs(data: bytes, where: str) -> tuple[pa.Table, dict[str, Any]]:
    """The same of its bytes."""
    if xxhash.xxh3_128_digest(data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise DataError(
            "the token store was damaged while the run read it", where=where, hint="repeat the command"
        )
    table = pa.ipc.open_file(pa.py_buffer(data[:-DIGEST_BYTES])).read_all()
    return table, json.loads(table.schema.metadata[b"batch"])


def remove_store(folder: Path) -> list[str]:
    """Delete the files of a token store, and its folder when nothing else is in it. Returns what is left."""
    return remove_own(folder, is_store_file)


def flat_batch(record: pa.RecordBatch) -> FlatBatch:
    """The arrays of a mapped batch, without copying tokens."""
    ids, flags = record.column("input_ids"), record.column("flags")
    weighted = STORED_WEIGHTS.name in record.schema.names
    return FlatBatch(
        ids.offsets.to_numpy().astype(np.int64),
        ids.values.to_numpy(),
        flags.values.to_numpy(),
        record.column(STORED_WEIGHTS.name).values.to_numpy() if weighted else None,
    )


def _as_ipc(data: pa.Table | pa.RecordBatch) -> pa.Buffer:
    """As an Arrow file, in memory."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, data.schema) as writer:
        writer.write(data)
    return sink.getvalue()
