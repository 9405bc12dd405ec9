"""Write an index packed dataset: the tokens of every piece once, and rows that name their pieces.

Pieces lie by document and piece, so neither the plan nor repeats change the token files: what is planned anew
shares those that it was made from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokpack.arrays import Int32, Int64, UInt8
from tokpack.engine import default_workers
from tokpack.engine.local import ordered_map
from tokpack.errors import UsageError
from tokpack.on_disk.shards import ARROW, INDEX, read_shard, shard_writer
from tokpack.on_disk.token_files import (
    DIGEST_KEY,
    DTYPES,
    INPUT_IDS,
    PIECES,
    TRAINED,
    npy_header,
    token_files_digest,
)
from tokpack.ranges import offsets_of
from tokpack.schema import COPIES, INDEX_SCHEMA, IS_DESIRABLE, LOSS_WEIGHTS, PIECES_SCHEMA, TOKEN_FILES
from tokpack.settings.config import WriteConfig
from tokpack.stages.write import (
    Ahead,
    FlatBatch,
    Placement,
    RowContents,
    WriteShards,
    Written,
    chunks_of,
    hashed_file,
    labeled_tokens,
    nothing_ahead,
    write_shards,
)

Shared = tuple[Path, list[dict[str, Any]]]
"""An index packed dataset, and `file` and `sha256` of its token files."""
SHARD = f"data-00000-of-00001.{INDEX}"


def write_rows(
    out: Path,
    contents: RowContents,
    pieces: Placement,
    batches: Callable[[int], FlatBatch],
    schema: pa.Schema,
    settings: WriteConfig,
    progress: Callable[[int], None] = lambda tokens: None,
    shared: Shared | None = None,
    ahead: Ahead = nothing_ahead,
    elsewhere: WriteShards | None = None,
) -> Written:
    """All rows as shards, or as an index with the tokens once, which are read in the order of documents.

    `shared`: token files that are there already, whose pieces `pieces.index` numbers: they become this one's.
    """
    if settings.shard_format != INDEX:
        return write_shards(out, contents, pieces, batches, schema, settings, progress, ahead, elsewhere)
    if LOSS_WEIGHTS in schema.names:
        raise no_weights(str(out))
    if IS_DESIRABLE in schema.names:
        raise UsageError(
            "an index packed dataset holds no labels of answers",
            where=str(out),
            hint="write whole rows: `pack` without --index-only, `tokpack repack --shard-format arrow`",
        )
    (out / PIECES).parent.mkdir(exist_ok=True)  # a run that was cut off made it
    if shared is not None:
        folder, files = shared
        for name in TOKEN_FILES:
            share_file(folder / name, out / name)
        records = pieces.index.astype(np.int64)
        (found,) = read_shard(out / PIECES)
        trained = found.column("trained").to_numpy()
    else:
        records, first = _numbered(pieces)
        trained, files = _write_tokens(out, first, pieces, batches, progress)
    copies = COPIES in schema.names
    shard = _write_plan(out, contents, pieces, records, token_files_digest(files), copies)
    lengths, labeled = pieces.length[contents.order], trained[records[contents.order]]
    tokens, of_them = (int(values.sum(dtype=np.int64)) for values in (lengths, labeled))
    return Written([shard], files, len(contents.row_offsets) - 1, tokens, of_them)


def no_weights(where: str) -> UsageError:
    """The error of labels that would need a weight."""
    return UsageError(
        "an index packed dataset holds no weights of tokens",
        where=where,
        hint="write whole rows: `pack` without --index-only, `tokpack repack --shard-format arrow`",
    )


def share_file(source: Path, target: Path) -> None:
    """The file under another name: a link on the disk where this user alone can have written it, else a copy.

    tokpack changes no file that it has finished, it writes new ones; so what is shared stays as it is.
    """
    mine = not hasattr(os, "geteuid") or source.lstat().st_uid == os.geteuid()
    if mine and not source.is_symlink():
        try:
            os.link(source, target)
            return
        except OSError:  # another disk, or a file system without such links
            pass
    shutil.copyfile(source, target)


def _numbered(pieces: Placement) -> tuple[Int64, Int64]:
    """(number of each piece in the token files, the piece that each number is written from): by document and
    piece, copies having the number of their original."""
    order = np.lexsort((pieces.copy, pieces.number, pieces.doc_id))
    doc_id, number = pieces.doc_id[order], pieces.number[order]
    begins = np.append(True, (np.diff(doc_id) != 0) | (np.diff(number) != 0))[: len(order)]
    records = np.empty(len(order), np.int64)
    records[order] = np.cumsum(begins) - 1
    return records, order[begins]


def _write_tokens(
    out: Path,
    first: Int64,
    pieces: Placement,
    batches: Callable[[int], FlatBatch],
    progress: Callable[[int], None],
) -> tuple[Int32, list[dict[str, Any]]]:
    """The token files of the pieces `first`, in that order. Returns trained tokens of each, and the sums."""
    each = RowContents(first, np.arange(len(first) + 1))
    lengths = pieces.length[first]
    offsets = offsets_of(lengths)
    trained = np.zeros(len(first), np.int32)
    with ExitStack() as stack:
        sinks = {name: stack.enter_context(hashed_file(out / name)) for name in (INPUT_IDS, TRAINED)}
        for name, (sink, _) in sinks.items():
            sink.write(npy_header(DTYPES[name], int(offsets[-1])))
        chunks = chunks_of(each, pieces, 0, len(first))
        gather = partial(_gather, first, pieces, batches)
        for (start, stop), ids, marks in ordered_map(gather, chunks, default_workers()):
            sinks[INPUT_IDS][0].write(ids)
            sinks[TRAINED][0].write(marks)
            trained[start:stop] = np.add.reduceat(marks, offsets[start:stop] - offsets[start], dtype=np.int32)
            progress(len(ids))
    columns = (pieces.doc_id[first], pieces.number[first], offsets[:-1], lengths, trained)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, PIECES_SCHEMA, strict=True)]
    record = pa.record_batch(arrays, schema=PIECES_SCHEMA)
    with hashed_file(out / PIECES) as (sink, digest), shard_writer(sink, PIECES_SCHEMA, ARROW) as writer:
        writer.write_batch(record)
    sums = {PIECES: digest} | {name: digest for name, (_, digest) in sinks.items()}
    return trained, [{"file": name, "sha256": sums[name].hexdigest()} for name in TOKEN_FILES]


def _gather(
    first: Int64, pieces: Placement, batches: Callable[[int], FlatBatch], which: tuple[int, int]
) -> tuple[tuple[int, int], Int32, UInt8]:
    ids, trained = labeled_tokens(pieces, first[slice(*which)], batches)
    return which, ids, trained.view(np.uint8)


def _write_plan(
    out: Path, contents: RowContents, pieces: Placement, records: Int64, digest: str, copies: bool
) -> dict[str, Any]:
    """The rows: record batches of about as many tokens as those of a shard that holds them."""
    columns = INDEX_SCHEMA
    values: dict[str, npt.NDArray[Any]] = {"records": records[contents.order]}
    if copies:
        columns = columns.append(pa.field(COPIES, pa.list_(pa.int32())))
        values[COPIES] = pieces.copy[contents.order]
    columns = columns.with_metadata({DIGEST_KEY: digest})
    rows = len(contents.row_offsets) - 1
    with hashed_file(out / SHARD) as (sink, written), shard_writer(sink, columns, ARROW) as writer:
        for first, last in chunks_of(contents, pieces, 0, rows):
            bounds = contents.row_offsets[first : last + 1]
            offsets = pa.array((bounds - bounds[0]).astype(np.int32))
            parts = [pa.array(value[bounds[0] : bounds[-1]]) for value in values.values()]
            lists = [pa.ListArray.from_arrays(offsets, part) for part in parts]
            writer.write_batch(pa.record_batch(lists, schema=columns))
    return {"file": SHARD, "rows": rows, "sha256": written.hexdigest()}
