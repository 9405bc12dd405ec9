"""Tokens in the order of rows, for a store larger than what may be mapped: a row takes its documents from all
over the store, and what is read page by page in that order is read many times.

    the rows in runs of about `size` bytes of tokens      rows 0-899, rows 900-1799, ...
    the store once, in its order                          each piece into the stretch of its run
    run by run                                            gathered at random, within what is mapped

The stretches are a second copy of the tokens, in files without a name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokpack.arrays import Int32, Int64
from tokpack.engine import default_workers
from tokpack.engine.local import ordered_map
from tokpack.frozen import frozen
from tokpack.ranges import offsets_of
from tokpack.stages.scratch import Scratch
from tokpack.stages.write import FlatBatch, Placement, RowContents, copy_pieces

LEAST_MAPPED, MOST_MAPPED = 1 << 25, 1 << 28
"""Bytes of a store that is gathered as it lies, and of a run: an eighth of the free memory, within these."""
STORED_BYTES = 5
"""Of a token in the store."""
NEEDED_BYTES = 24
"""Of a token in a run and in the widest of shards, which lie on the disk at the same time."""


def run_bytes(tokens: int, free: int) -> int:
    """Bytes of a run where so many tokens are more than should be mapped and `free` bytes of memory are left;
    0 where they are not."""
    most = max(LEAST_MAPPED, min(MOST_MAPPED, free // 8))
    return most if tokens * STORED_BYTES > most else 0


def has_room(folder: Path, tokens: int) -> bool:
    """Whether the disk has room for runs of so many tokens beside the shards."""
    return shutil.disk_usage(folder).free > tokens * NEEDED_BYTES


@frozen
class Runs:
    """The tokens of all runs end to end; within a run its pieces in the order of the store."""

    scratch: Scratch
    order: npt.NDArray[np.signedinteger[Any]]
    """Of `RowContents`: the pieces run by run, in the order of rows."""
    length: Int32
    """Of the pieces."""
    starts: Int64
    """Of each run: its first place in `order`; then the end."""
    places: Int64
    """Of each run: its first token; then all of them."""
    columns: list[npt.NDArray[Any]]
    """Ids, marks, and weights where there are some."""

    def batch(self, number: int) -> FlatBatch:
        """A run as a batch of the store; the pages of the runs before it stop counting as memory."""
        self.scratch.release()
        mine = np.sort(self.order[slice(*self.starts[number : number + 2])])
        tokens = slice(*self.places[number : number + 2])
        return FlatBatch(offsets_of(self.length[mine]), *(column[tokens] for column in self.columns))


def in_runs(
    contents: RowContents,
    pieces: Placement,
    batches: Callable[[int], FlatBatch],
    weighted: bool,
    folder: Path,
    size: int,
) -> tuple[Placement, Callable[[int], FlatBatch]]:
    """The pieces where they lie now, and their runs in place of the store's batches. Raises OSError where the
    folder has no room."""
    starts = run_starts(contents, pieces.length, max(1, size // STORED_BYTES))
    places = np.zeros(len(starts), np.int64)
    run = np.empty(len(pieces.length), np.min_scalar_type(-len(starts)))
    index, offset = (np.empty(len(run), np.int32) for _ in range(2))  # of each piece, in its run
    for number, (first, last) in enumerate(pairwise(starts)):
        mine = np.sort(contents.order[first:last])
        offsets = offsets_of(pieces.length[mine])
        run[mine], index[mine], offset[mine] = number, np.arange(len(mine)), offsets[:-1]
        places[number + 1] = places[number] + offsets[-1]
    scratch = Scratch(folder)
    dtypes = (np.int32, np.uint8, np.float32)[: 2 + weighted]
    columns, writers = zip(*(scratch.written(int(places[-1]), dtype) for dtype in dtypes), strict=True)

    def move(mine: Int64) -> None:
        place = places[run[mine]] + offset[mine]
        by_place = np.argsort(place)
        which = mine[by_place]
        values = list(copy_pieces(pieces.batch[which], pieces.index[which], batches, weighted))
        _put(writers, values, place[by_place], pieces.length[which])

    for _ in ordered_map(move, _of_batches(pieces.batch), default_workers()):
        pass
    found = Runs(scratch, contents.order, pieces.length, starts, places, list(columns))
    return replace(pieces, batch=run, index=index), lru_cache(maxsize=2)(found.batch)


def run_starts(contents: RowContents, length: Int32, tokens: int) -> Int64:
    """The first place of each run in `contents.order`, and the end: a row is in the run where it begins."""
    if not len(contents.order):
        return np.zeros(1, np.int64)
    of_row = np.add.reduceat(length[contents.order], contents.row_offsets[:-1], dtype=np.int64)
    run_of_row = offsets_of(of_row)[:-1] // tokens
    runs = int(run_of_row[-1]) + 1
    return contents.row_offsets[np.searchsorted(run_of_row, np.arange(runs + 1))]


def _of_batches(batch: npt.NDArray[np.signedinteger[Any]]) -> Iterator[Int64]:
    """The pieces of each batch, in the order of the store: a stretch for each time that documents repeat."""
    begins = np.append(0, np.flatnonzero(batch[1:] != batch[:-1]) + 1)
    stretches: dict[int, list[tuple[int, int]]] = {}
    for first, last in zip(begins, [*begins[1:], len(batch)], strict=True) if len(batch) else ():
        stretches.setdefault(int(batch[first]), []).append((first, last))
    for number in sorted(stretches):
        yield np.concatenate([np.arange(*stretch) for stretch in stretches[number]])


def _put(
    writers: Iterable[Callable[[int, npt.NDArray[Any]], None]],
    values: list[npt.NDArray[Any]],
    place: Int64,
    length: Int32,
) -> None:
    """The pieces, end to end in `values`, to their places, which rise; neighbors are written together."""
    ends = offsets_of(length)
    begins = np.append(0, np.flatnonzero(place[1:] != place[:-1] + length[:-1]) + 1)
    for first, last in zip(begins.tolist(), [*begins[1:].tolist(), len(place)], strict=True):
        for write, some in zip(writers, values, strict=True):
            write(int(place[first]), some[ends[first] : ends[last]])
