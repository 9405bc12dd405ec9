"""`--engine ray`: the nodes of a cluster fill one token store together; then the run goes on here.

A task makes the batches of some consecutive items, as a part of a run does. What it needs is the settings and
the place of the store: each process of a node opens the inputs and loads the tokenizer once.
"""

from __future__ import annotations

import logging
import platform
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tokpack.engine.ray import cluster, cores, unordered_map
from tokpack.errors import FULL, OutputError, TokpackError, UsageError, system_error
from tokpack.files.durable import part_of
from tokpack.frozen import frozen
from tokpack.run import MB, Run
from tokpack.settings.config import Config
from tokpack.stages.read.items import Item, bytes_of
from tokpack.stages.write import FlatBatch, Placement, RowContents, Shard, WrittenShard, write_shard
from tokpack.way.bucket_store import open_store
from tokpack.way.corpus import Corpus
from tokpack.way.in_order import read_in_order
from tokpack.way.part import refuse_pipes
from tokpack.way.pass_one import cut_input, make_batches, warnings_of
from tokpack.way.plan_part import Part
from tokpack.way.store import Key, TokenStore, flat_batch, mapped_tokens
from tokpack.way.store_record import RECORD

log = logging.getLogger("tokpack")

ENGINE = "--engine ray"
TASK_BYTES, TASKS_A_CORE, MOST_TASKS = 64 * MB, 4, 1024
"""Bytes of input in a task at most, since its blocks wait for the disk once; of what is left a core gets so
many tasks, so that the last ones are small; and where there would be more, tasks are larger."""
SEEN = "all nodes read and write the token store and -o under these paths"


@frozen
class Piece:
    """Items of a run. `key` tells runs apart."""

    key: str
    config: Config
    folder: Path
    """That relative paths of the config begin in."""
    place: Path | str
    """Of the token store: a folder that all nodes see, or a URL."""
    items: tuple[int, ...]


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
    key, here = secrets.token_hex(8), Path.cwd()
    sizes = [bytes_of(item, run.sources, run.block_bytes) for item in cut_input(run)]
    said: dict[str, None] = {}
    with (
        run.tell.doing("reading and tokenizing on the cluster", run.input_bytes, "MB", MB) as advance,
        cluster(address) as ray,
    ):
        pieces = [Piece(key, run.config, here, store.place, some) for some in tasks_of(sizes, cores(ray))]
        for size, warnings in unordered_map(make_piece, pieces, address):
            advance(size)
            said |= dict.fromkeys(warnings)
    for message in said:
        log.warning(message)


def tasks_of(sizes: list[int], cores: int) -> list[tuple[int, ...]]:
    """The numbers of items of these sizes, in bytes, as tasks in which they are made. The largest are first,
    and what is last is small, so that no core works long after the others.

    >>> tasks_of([8, 8, 8, 64, 8], cores=1)
    [(3,), (0,), (1,), (2,), (4,)]
    """
    left = sum(sizes)
    most = max(TASK_BYTES, left // MOST_TASKS)
    tasks: list[tuple[int, ...]] = []
    task: list[int] = []
    held = 0
    for number in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
        task.append(number)
        held += sizes[number]
        if held >= min(most, left // (TASKS_A_CORE * cores)):
            tasks.append(tuple(task))
            left, task, held = left - held, [], 0
    return tasks


def make_piece(piece: Piece) -> tuple[int, list[str]]:
    """(bytes of input behind the piece, warnings), all its batches committed. Runs on any node."""
    with _on_this_node(piece.folder, piece.place):
        run, items = _opened(piece)
        store = open_store(piece.place, run.fingerprint(), joins=True)
        size = make_batches(run, store, items, piece.items)
        return size, warnings_of(run, store)


@contextmanager
def _on_this_node(folder: Path, where: Path | str) -> Iterator[None]:
    """Relative paths begin in the folder, where it is here; what is raised names the node."""
    try:
        with chdir(folder if folder.is_dir() else Path.cwd()):
            yield
    except TokpackError as error:
        error.what = f"on node {platform.node()}: {error.what}"
        raise
    except OSError as error:
        raise OutputError(
            f"on node {platform.node()}: {error.strerror or error}",
            where=str(error.filename2 or error.filename or where),
            hint="free some space and repeat the command" if system_error(error) in FULL else SEEN,
        ) from None


_runs: dict[str, tuple[Run, list[Item]]] = {}
"""Of this process: the run that it works for, and its items."""


def _opened(piece: Piece) -> tuple[Run, list[Item]]:
    if isinstance(piece.place, Path) and not (piece.place / RECORD).is_file():
        raise UsageError(
            "the token store is not there",
            where=str(piece.place),
            hint="give -o, or --work-dir, a folder that all nodes see under this path, or a bucket: s3://...",
        )
    if piece.key not in _runs:
        _runs.clear()
        run = Run.start(piece.config, workers=1)
        _runs[piece.key] = run, cut_input(run)
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


@frozen
class ShardPieces(Sequence[ShardPiece]):
    """What `make` makes of the shards, when it is asked for: together they are as large as the plan."""

    make: Callable[[Shard], ShardPiece]
    shards: list[Shard]

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: Any) -> Any:
        return self.make(self.shards[number])


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
    pieces = ShardPieces(partial(_shard_piece, corpus, out.resolve(), part, columns), shards)
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
    with _on_this_node(piece.folder, piece.out):
        if piece.in_order:
            read_in_order(piece.pieces.batch, piece.pieces.index, batch)
        written = write_shard(beside, piece.shard, piece.contents, piece.pieces, batch, piece.columns)
        beside.replace(piece.out / piece.shard.name)
    return written
