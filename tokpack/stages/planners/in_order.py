"""`sequential` and `none`: planners that keep the order of the input (curricula, streams, comparisons)."""

from __future__ import annotations

import numpy as np

from tokpack.arrays import Int32

BLOCK = 1 << 16


def sequential(lengths: Int32, capacity: int, *, seed: int = 0, max_docs_per_row: int | None = None) -> Int32:
    """Next-fit: a row closes when the next document does not fit. Documents and rows stay in input order.

    Where a row that starts at i would end is a binary search in the running sum, done for a block of
    documents at once; the Python loop runs over rows. `seed` has no effect.
    """
    documents = len(lengths)
    ends = np.cumsum(lengths, dtype=np.int64)
    starts_row = np.zeros(documents, dtype=bool)
    start = 0
    for low in range(0, documents, BLOCK):
        high = min(low + BLOCK, documents)
        limits = ends[low:high] - lengths[low:high] + capacity
        reach = int(np.searchsorted(ends, limits[-1], side="right"))
        following = low + np.searchsorted(ends[low:reach], limits, side="right")
        if max_docs_per_row:
            following = np.minimum(following, np.arange(low, high) + max_docs_per_row)
        next_start = following.tolist()
        starts = []
        while start < high:
            starts.append(start)
            start = next_start[start - low]
        starts_row[starts] = True
    return np.cumsum(starts_row, dtype=np.int32) - np.int32(1)


def none(lengths: Int32, capacity: int, *, seed: int = 0, max_docs_per_row: int | None = None) -> Int32:
    """One document a row, in input order: what packing saves is measured against this."""
    return np.arange(len(lengths), dtype=np.int32)
