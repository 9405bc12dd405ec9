"""`--engine ray`: the nodes of a cluster fill one token store together; then the run goes on here.

A task makes the batches of some consecutive items, as a part of a run does. What it needs is the settings and
the place of the store: each process of a node opens the inputs and loads the tokenizer once.
"""

from __future__ import annotations

import logging
import platform
import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from tokpack.engine.ray import unordered_map
from tokpack.errors import OutputError, UsageError
from tokpack.files.durable import part_of
from tokpack.frozen import frozen
from tokpack.run import MB, Run
from tokpack.settings.config import Config
from tokpack.stages.write import FlatBatch, Placement, RowContents, Shard, WrittenShard, write_shard
from tokpack.way.bucket_store import open_store
from tokpack.way.corpus import Corpus
from tokpack.way.in_order import read_in_order
from tokpack.way.part import refuse_pipes
from tokpack.way.pass_one import cut_input, make_batches, warnings_of
from tokpack.way.plan_part import Part
from tokpack.way.store import RECORD, Key, TokenStore, flat_batch, mapped_tokens

log = logging.getLogger("tokpack")

MOST_TASKS = 1024
ENGINE = "--engine ray"


@frozen
class Piece:
    """Consecutive items of a run. `key` tells runs apart."""

    key: str
    config: Config
    place: Path | str
    """Of the token store: a folder that all nodes see, or a URL."""
    items: range


def fill(run: Run, store: TokenStore, address: str | None) -> None:
    """Commit every item's batches into the store from the cluster's nodes. It has to be opened again then.

    Raises UsageError for inputs that other nodes cannot open, and what a node raises, with its name.
    """
    refuse_pipes(run, ENGINE)
    if len(run.keep.doc_ids):
        raise UsageError(
            "a list of documents names them by their place, so all input is read in order",
            where="--keep",
            hint=f"leave out {ENGINE}",
        )
    count, key = len(cut_input(run)), secrets.token_hex(8)
    each = -(-count // MOST_TASKS) or 1
    pieces = [
        Piece(key, run.config, store.place, range(first, min(first + each, count)))
        for first in range(0, count, each)
    ]
    said: dict[str, None] = {}
    with run.tell.doing("reading and tokenizing on the cluster", run.input_bytes, "MB", MB) as advance:
        for size, warnings in unordered_map(make_piece, pieces, address):
            advance(size)
            said |= dict.fromkeys(warnings)
    for message in said:
        log.warning(message)


def make_piece(piece: Piece) -> tuple[int, list[str]]:
    """(bytes of input behind the piece, warnings), all its batches committed. Runs on any node."""
    try:
        run = _opened(piece)
        store = open_store(piece.place, run.fingerprint(), joins=True)
        size = make_batches(run, store, cut_input(run), piece.items)
    except UsageError as error:
        error.what = f"on node {platform.node()}: {error.what}"
        raise
    return size, warnings_of(run, store)


_runs: dict[str, Run] = {}
"""Of this process: the run that it works for."""


def _opened(piece: Piece) -> Run:
    if isinstance(piece.place, Path) and not (piece.place / RECORD).is_file():
        raise UsageError(
            "the token store is not there",
            where=str(piece.place),
            hint="give -o, or --work-dir, a folder that all nodes see under this path, or a bucket: s3://...",
        )
    if piece.key not in _runs:
        _runs.clear()
        _runs[piece.key] = Run.start(piece.config, workers=1)
    return _runs[piece.key]


# Pass 2


@frozen
class ShardPiece:
    """A shard, and what a node needs to write it: its own rows and pieces, and the places of both folders."""

    shard: Shard
    out: Path
    folder: Path
    keys: list[Key]
    """Batches of the store: what `pieces` count."""
    contents: RowContents
    pieces: Placement
    columns: pa.Schema
    in_order: bool
    """Whether the tokens are read in their order before the rows are gathered."""


def shards_on(
    corpus: Corpus,
    out: Path,
    address: str | None,
    part: Part,
    columns: pa.Schema,
    advance: Callable[[int], None],
    shards: list[Shard],
) -> list[WrittenShard]:
    """Have the nodes write the shards, a task each, into a folder that all see."""
    found: dict[str, WrittenShard] = {}
    pieces = [_shard_piece(corpus, out.resolve(), part, columns, shard) for shard in shards]
    for written in unordered_map(make_shard, pieces, address):
        found[written.record["file"]] = written
        advance(written.tokens)
    return [found[shard.name] for shard in shards]


def _shard_piece(corpus: Corpus, out: Path, part: Part, columns: pa.Schema, shard: Shard) -> ShardPiece:
    offsets = part.contents.row_offsets[shard.first : shard.last + 1]
    chosen = part.contents.order[offsets[0] : offsets[-1]]
    mine = part.placement.take(chosen)
    numbers, batch = np.unique(mine.batch, return_inverse=True)
    return ShardPiece(
        replace(shard, first=0, last=shard.last - shard.first),
        out,
        corpus.store.folder.resolve(),
        [corpus.batches[number] for number in numbers.tolist()],
        RowContents(np.arange(len(chosen)), offsets - offsets[0]),
        replace(mine, batch=batch.astype(np.int32)),
        columns,
        part.part_of_row is not None,
    )


def make_shard(piece: ShardPiece) -> WrittenShard:
    """Write a shard beside and rename it: one that two nodes write is the same. Runs on any node."""

    @cache
    def batch(number: int) -> FlatBatch:
        return flat_batch(mapped_tokens(piece.folder, piece.keys[number]))

    beside = part_of(piece.folder / piece.shard.name)
    try:
        if piece.in_order:
            read_in_order(piece.pieces.batch, piece.pieces.index, batch)
        written = write_shard(beside, piece.shard, piece.contents, piece.pieces, batch, piece.columns)
        beside.replace(piece.out / piece.shard.name)
    except OSError as error:
        raise OutputError(
            f"on node {platform.node()}: {error.strerror or error}",
            where=str(error.filename or piece.out),
            hint="all nodes read and write the token store and -o under these paths",
        ) from None
    return written
