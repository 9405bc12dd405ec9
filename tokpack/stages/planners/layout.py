"""What the histogram planners share: documents sorted by length, and rows handed out to them in bulk.

A histogram planner decides by length only. Its result is a list of **strips**: strip i gives one document of
length `sizes[size[i]]` to each of the rows `first_row[i] .. first_row[i] + rows[i] - 1`. Which document of
that length it is, the seed decides here, so the order of the input files never shows in the packs.

    lengths 5 3 3 2 2, capacity 8  ->  sizes [5, 3, 2], counts [1, 2, 2]
    strips (size, first_row, rows): (0, 0, 1) (1, 0, 1) (1, 1, 1) (2, 1, 1) (2, 1, 1)  =  rows 5+3 and 3+2+2
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tokpack.arrays import Int32, Int64, UInt64

UNLIMITED = 1 << 62
"""Documents a row may take where no `max_docs_per_row` is set."""


class Histogram(NamedTuple):
    """Documents longest first: `order[i]` is a document's position in the input."""

    order: Int64
    sizes: Int64
    """Distinct lengths, descending."""
    counts: Int64
    """Documents of each of `sizes`."""


class Strips(NamedTuple):
    """Three arrays of one length (see the module's docstring)."""

    size: Int64
    first_row: Int64
    rows: Int64


BLOCK = 1 << 18

STREAMS = ("documents", "rows", "runs", "mix", "parts")
"""One seed, several shuffles: each has a stream of its own."""


def noise(count: int, seed: int, stream: str) -> UInt64:
    """`count` seeded 64-bit words. PCG64's raw stream is the same in every NumPy and on every machine."""
    return np.random.PCG64([STREAMS.index(stream), seed]).random_raw(count)


def histogram(lengths: Int32, seed: int) -> Histogram:
    """Sort documents by length, shuffled by `seed` among equals. One sort of n 64-bit keys, about 30 bytes a
    document.

    A key is (longest - length, noise, position), high bits first. Keys differ in their position, so every
    sort algorithm gives the same order.
    """
    documents = len(lengths)
    if documents == 0:
        return Histogram(*(np.empty(0, np.int64) for _ in range(3)))
    longest = int(lengths.max())
    position_bits = max(1, (documents - 1).bit_length())
    noise_bits = 64 - position_bits - max(1, longest.bit_length())
    length_shift = np.uint64(noise_bits + position_bits)
    keys = noise(documents, seed, "documents")
    for low in range(0, documents, BLOCK):  # in blocks: no temporary as large as the keys
        block = keys[low : low + BLOCK]
        block >>= np.uint64(64 - noise_bits)
        block <<= np.uint64(position_bits)
        block |= np.arange(low, low + len(block), dtype=np.uint64)
        block |= (longest - lengths[low : low + BLOCK]).astype(np.uint64) << length_shift
    keys.sort()
    starts = np.concatenate([_begins(keys, low, length_shift) for low in range(0, documents, BLOCK)])
    sizes = longest - (keys[starts] >> length_shift).astype(np.int64)
    counts = np.diff(starts, append=documents)
    keys &= np.uint64((1 << position_bits) - 1)
    return Histogram(keys.view(np.int64), sizes, counts)


def _begins(keys: UInt64, low: int, shift: np.uint64) -> Int64:
    """Where in a block, and where it begins, the top of a key is another than before."""
    tops = keys[max(0, low - 1) : low + BLOCK] >> shift
    begins = np.flatnonzero(tops[1:] != tops[:-1]) + max(1, low)
    return begins if low else np.append(0, begins)


def strips_of_patterns(entries: Int64, times: Int64) -> Strips:
    """Strips of whole rows: `entries: int64[m, 3]` holds (pattern, size, documents of that size in each row),
    and pattern p is used for `times[p]` rows, numbered in order of patterns.
    """
    first_row = np.cumsum(times) - times
    pattern, size, copies = entries.T
    return Strips(
        np.repeat(size, copies), np.repeat(first_row[pattern], copies), np.repeat(times[pattern], copies)
    )


def rows_of_documents(documents: Histogram, strips: Strips) -> Int32:
    """Expand strips to `row_of_doc: int32[n]`. Strips must hold every document once, in any order."""
    by_size = np.argsort(strips.size, kind="stable")
    rows = strips.rows[by_size]
    ends = np.cumsum(rows)
    # Documents of one strip go to consecutive rows: row = place + (first row - first place of the strip).
    shift = (strips.first_row[by_size] - (ends - rows)).astype(np.int32)
    placed = np.arange(len(documents.order), dtype=np.int32)
    placed += np.repeat(shift, rows)
    row_of_doc = np.empty_like(placed)
    row_of_doc[documents.order] = placed
    return row_of_doc
