"""Best fit row by row: each row takes the longest document left, then the documents that fill it exactly.

A row goes on taking the longest document that fits until one, two or three documents are known to fill the
rest to the last token; of several fills the one with the longest documents wins, so short ones, which fit
anywhere, last to the end. A row found once is repeated for as long as the documents of its lengths last: the
number of searches follows the distinct lengths (about one each), not the documents.

"Which two lengths left add up to r?" is one AND of two bit sets: lengths, and their mirror image shifted by
r.

    lengths {2, 3, 5}, r = 7:  bits 2 3 5 (lengths)  AND  bits 7-2 7-3 7-5 = 5 4 2 (mirror)  =  2 5  ->  5 + 2
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokpack.stages.planners.layout import UNLIMITED, Strips, strips_of_patterns

TRIES = 16
"""Longest documents tried as the first of three."""


class Stock:
    """Documents left, by length: counts, and a bit set (a Python integer) with its mirror image."""

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], capacity: int) -> None:
        self.capacity = capacity
        self.count = dict(zip(sizes, counts, strict=True))
        present = np.zeros(capacity + 1, dtype=bool)
        present[list(sizes)] = True
        self.lengths = int.from_bytes(np.packbits(present, bitorder="little").tobytes(), "little")
        self.mirror = int.from_bytes(np.packbits(present[::-1], bitorder="little").tobytes(), "little")

    def longest(self, limit: int) -> int:
        """The longest length left up to `limit`, -1 for none."""
        return (self.lengths & ((2 << limit) - 1)).bit_length() - 1

    def shortest(self) -> int:
        return (self.lengths & -self.lengths).bit_length() - 1

    def take(self, length: int, documents: int) -> None:
        self.count[length] -= documents
        if self.count[length] == 0:
            self.flip(length)

    def put_back(self, length: int) -> None:
        if self.count[length] == 0:
            self.flip(length)
        self.count[length] += 1

    def flip(self, length: int) -> None:
        self.lengths ^= 1 << length
        self.mirror ^= 1 << (self.capacity - length)

    def pair(self, space: int, limit: int) -> tuple[int, ...]:
        """Two lengths up to `limit` that add up to `space`, the longest first; () for none."""
        low = (space + 1) // 2
        if limit < low:
            return ()
        both = self.lengths & (self.mirror >> (self.capacity - space)) & ((2 << limit) - 1)
        longer = (both >> low).bit_length() - 1 + low
        if longer >= low and 2 * longer == space and self.count[longer] < 2:
            return ()
        return (longer, space - longer) if longer >= low else ()

    def fill(self, space: int, limit: int, documents: int) -> tuple[int, ...]:
        """Up to three lengths up to `limit`, and no more than `documents`, that add up to `space`."""
        if space <= limit and self.count.get(space, 0):
            return (space,)
        shortest = self.shortest()
        if documents >= 2 and 2 * shortest <= space <= 2 * limit:
            found = self.pair(space, min(limit, space - shortest))
            if found:
                return found
        if documents >= 3 and 3 * shortest <= space <= 3 * limit:
            first = min(limit, space - 2 * shortest)
            for _ in range(TRIES):
                first = self.longest(first)
                if 3 * first < space:
                    break
                self.take(first, 1)
                found = self.pair(space - first, min(first, space - first - 1))
                self.put_back(first)
                if found:
                    return (first, *found)
                first -= 1
        return ()

    def row(self, max_docs: int) -> dict[int, int]:
        """Take one row out of the stock: documents by length."""
        row: dict[int, int] = {}
        space, limit = self.capacity, self.longest(self.capacity)
        while limit > 0 and max_docs:
            found = self.fill(space, limit, max_docs) if row else ()
            if found:
                for length in found:
                    self.take(length, 1)
                    row[length] = row.get(length, 0) + 1
                break
            # Far from full: many at once, but leave room for three that fill it.
            documents = max(1, min(self.count[limit], max_docs, space // limit - 3)) if row else 1
            self.take(limit, documents)
            row[limit] = row.get(limit, 0) + documents
            space -= limit * documents
            max_docs -= documents
            limit = self.longest(min(limit, space))
        return row


def row_by_row_strips(
    sizes: Sequence[int], counts: Sequence[int], capacity: int, max_docs_per_row: int | None = None
) -> tuple[Strips, int]:
    """Row-by-row best fit over a histogram with `sizes` falling: (strips, number of rows)."""
    stock = Stock(sizes, counts, capacity)
    index = {length: place for place, length in enumerate(sizes)}
    entries: list[tuple[int, int, int]] = []  # pattern, size, documents in each row
    times: list[int] = []
    while stock.lengths:
        row = stock.row(max_docs_per_row or UNLIMITED)
        more = min(stock.count[length] // documents for length, documents in row.items())
        for length, documents in row.items():
            entries.append((len(times), index[length], documents))
            if more:
                stock.take(length, documents * more)
        times.append(1 + more)
    table = np.array(entries, dtype=np.int64).reshape(-1, 3)
    return strips_of_patterns(table, np.array(times, dtype=np.int64)), sum(times)
