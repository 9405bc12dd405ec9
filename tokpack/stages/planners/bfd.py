"""`bfd`: best-fit decreasing over the length histogram, global, numpy alone.

Documents go longest first, each into the fullest row that still takes it, else into a new row (Johnson 1974:
at most 11/9 of the optimum and 6/9 of a row). Rows with equal free space are one class, and documents of one
length are placed in bulk, so the Python loop runs over (length, class) pairs, a few thousand, however many
documents there are. Cost: one sort of the documents, O(L log L) steps in the distinct lengths L, one gather.

Lengths come in falling order, so classes too small for this length are set aside and come back, smallest
first, as lengths fall: the best fit is always on top of a stack.

Short documents end this way in rows like 34 x 60 with 8 of 2048 tokens lost. Where the result misses
ceil(tokens / capacity), rows are therefore also filled one by one (`row_by_row`), and the plan with fewer
rows is taken; of equals, the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from operator import mul

import numpy as np

from tokpack.arrays import Int32
from tokpack.stages.planners.layout import UNLIMITED, Strips, histogram, rows_of_documents
from tokpack.stages.planners.row_by_row import row_by_row_strips

FEW_SIZES = 32_768
"""Distinct lengths up to which rows are also filled one by one: beyond, that takes seconds for nothing."""

Rows = tuple[int, int, int]
"""Rows with one content: (first row, how many, documents each may still take)."""


class OpenRows:
    """Rows with space left, by free space: finds the fullest that takes a length, for falling lengths."""

    def __init__(self, capacity: int, max_docs_per_row: int | None) -> None:
        self.capacity = capacity
        self.max_docs = max_docs_per_row or UNLIMITED
        self.rows = 0
        self._fitting: list[tuple[int, list[Rows]]] = []  # a stack, least space on top
        self._waiting: dict[int, list[Rows]] = {}  # too small for the current length
        self._spaces: list[int] = []  # max-heap (negated) of the keys of _waiting

    def lower(self, length: int) -> None:
        """Lengths have fallen to `length`: rows set aside that take it fit again."""
        while self._spaces and -self._spaces[0] >= length:
            space = -heappop(self._spaces)
            self._fitting.append((space, self._waiting.pop(space)))

    def take(self, length: int, documents: int) -> tuple[int, Rows]:
        """(free space, rows) of the best fit; as many new rows as `documents` need when nothing fits."""
        if self._fitting:
            space, classes = self._fitting[-1]
            rows = classes.pop()
            if not classes:
                self._fitting.pop()
            return space, rows
        each = min(self.capacity // length, self.max_docs)
        first, count = self.rows, -(-documents // each)
        self.rows += count
        return self.capacity, (first, count, self.max_docs)

    def give_back(self, space: int, rows: Rows) -> None:
        """Rows that still take the current length; never more space than what lies on the stack."""
        if self._fitting and self._fitting[-1][0] == space:
            self._fitting[-1][1].append(rows)
        else:
            self._fitting.append((space, [rows]))

    def set_aside(self, space: int, rows: Rows) -> None:
        """Rows too full for the current length."""
        if space == 0 or rows[2] == 0:
            return
        if space not in self._waiting:
            self._waiting[space] = []
            heappush(self._spaces, -space)
        self._waiting[space].append(rows)


def best_fit_strips(
    sizes: Sequence[int], counts: Sequence[int], capacity: int, max_docs_per_row: int | None = None
) -> tuple[Strips, int]:
    """Best-fit decreasing over a histogram with `sizes` falling: (strips, number of rows)."""
    open_rows = OpenRows(capacity, max_docs_per_row)
    placed: list[tuple[int, int, int, int]] = []  # size, first row, rows, documents in each
    for size, (length, documents) in enumerate(zip(sizes, counts, strict=True)):
        left = documents
        open_rows.lower(length)
        while left:
            space, (first, count, may_take) = open_rows.take(length, left)
            # Best fit stays with a row until it is too full for this length.
            each = min(space // length, may_take)
            full = min(count, left // each)
            if full:
                placed.append((size, first, full, each))
                open_rows.set_aside(space - each * length, (first, full, may_take - each))
                left -= full * each
                first, count = first + full, count - full
            if not count:
                continue
            if left:  # fewer than `each` are left: they go into one row
                placed.append((size, first, 1, left))
                if count > 1:
                    open_rows.give_back(space, (first + 1, count - 1, may_take))
                open_rows.give_back(space - left * length, (first, 1, may_take - left))
                left = 0
            else:
                open_rows.give_back(space, (first, count, may_take))
    table = np.array(placed, dtype=np.int64).reshape(-1, 4)
    size_of, first_row, rows = (np.repeat(table[:, column], table[:, 3]) for column in range(3))
    return Strips(size_of, first_row, rows), open_rows.rows


def bfd(lengths: Int32, capacity: int, *, seed: int = 0, max_docs_per_row: int | None = None) -> Int32:
    """Best-fit decreasing, document by document or row by row: `row_of_doc: int32[n]`."""
    documents = histogram(lengths, seed)
    sizes, counts = documents.sizes.tolist(), documents.counts.tolist()
    strips, rows = best_fit_strips(sizes, counts, capacity, max_docs_per_row)
    least = -(-sum(map(mul, sizes, counts)) // capacity)
    if rows > least and len(sizes) <= FEW_SIZES:
        other, fewer = row_by_row_strips(sizes, counts, capacity, max_docs_per_row)
        if fewer < rows:
            strips = other
    return rows_of_documents(documents, strips)
