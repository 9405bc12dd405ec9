"""Where rows draw from one part of the corpus each: a part's tokens are read from the store in their order,
when its first row comes, and are at hand then. What is mapped is otherwise fetched page by page in the order
of rows, which is no order: from a network, a request for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tokpack.arrays import Int32, Int64
from tokpack.ranges import range_indices
from tokpack.stages.write import FlatBatch
from tokpack.way.plan_part import Part

PAGE = 4096


def parts_ahead(part: Part, batches: Callable[[int], FlatBatch]) -> Callable[[int, int], None]:
    """To be told which rows come next, from the first to before the last."""
    seen: set[int] = set()

    def ahead(first: int, last: int) -> None:
        if part.part_of_row is None:
            return
        for number in np.unique(part.part_of_row[first:last]).tolist():
            if number not in seen:
                seen.add(number)
                which = _pieces_of(part, np.flatnonzero(part.part_of_row == number))
                batch, index = (part.pieces[name].to_numpy()[which] for name in ("batch", "index"))
                read_in_order(batch, index, batches)

    return ahead


def read_in_order(batch: Int32, index: Int32, batches: Callable[[int], FlatBatch]) -> None:
    """The pieces' tokens, each batch from its first piece of these to its last."""
    for values, start, stop in _stretches(batch, index, batches):
        read(values, start, stop)


def _pieces_of(part: Part, rows: Int64) -> Int64:
    offsets = part.contents.row_offsets
    return part.contents.order[range_indices(offsets[rows], np.diff(offsets)[rows])]


def _stretches(
    batch: Int32, index: Int32, batches: Callable[[int], FlatBatch]
) -> Iterator[tuple[npt.NDArray[Any], int, int]]:
    """In the order of the store."""
    order = np.argsort(batch, kind="stable")
    numbers, begins = np.unique(batch[order], return_index=True)
    firsts, lasts = (f.reduceat(index[order], begins).tolist() for f in (np.minimum, np.maximum))
    for number, first, last in zip(numbers.tolist(), firsts, lasts, strict=True):
        found = batches(number)
        start, stop = int(found.offsets[first]), int(found.offsets[last + 1])
        for values in (found.ids, found.marks, found.weights):
            if values is not None:
                yield values, start, stop


def read(values: npt.NDArray[Any], start: int, stop: int) -> None:
    """One value of each page, from the first to the last: the system reads ahead of that."""
    values[start : stop : PAGE // values.itemsize].max(initial=0)
