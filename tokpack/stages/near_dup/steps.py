"""The steps of the near-duplicate join, `near_dup` holds the reasoning: prune, gather, count, order, join."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tokpack.engine.local import ordered_map
from tokpack.stages.scratch import Scratch
from tokpack.stages.selected_tokens import Bools, Int32, Int64, SelectedTokens, UInt8

CHUNK: Final = 1 << 14
"""Sets in work at once on a core."""
GRAMS: Final = 1 << 22
"""Grams of sets in work at once on a core."""
AT_ONCE: Final = 8
"""After so many pieces of work the pages of scratch files are let go."""
LEAST_SLOTS: Final = 1 << 10
"""Of a table in memory."""

UInt64 = npt.NDArray[np.uint64]
View = tuple[Int32, UInt8, int, Int64, Int64]


@dataclass(frozen=True, slots=True)
class Search:
    """What the steps share: the documents, how they are compared, and the room there is."""

    batches: Sequence[SelectedTokens]
    view: Callable[[SelectedTokens], View]
    ends: Int64
    """Where each batch begins among all documents, and the end of the last."""
    threshold: float
    n: int
    table_bytes: int
    scratch: Scratch
    threads: int

    def views(self) -> Iterator[View]:
        return map(self.view, self.batches)

    def of_batches(self, array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The documents' numbers batch by batch."""
        return [array[a:b] for a, b in pairwise(self.ends)]

    def ranges(self, slots: int, slot_bytes: float) -> tuple[int, list[int]]:
        """How many of `slots` a table in memory has, a power of two, and where each such table begins."""
        width = slots
        while width * slot_bytes > self.table_bytes and width > LEAST_SLOTS:
            width //= 2
        return width, list(range(0, slots, width))

    def run(self, function: Callable[[Any], None], items: Iterable[Any]) -> None:
        """On all cores; pages of scratch files are let go on the way."""
        for number, _ in enumerate(ordered_map(function, items, self.threads)):
            if number % AT_ONCE == AT_ONCE - 1:
                self.scratch.release()
        self.scratch.release()


@dataclass(frozen=True, slots=True)
class Sets:
    """The documents that may have a partner, in input order."""

    position: Int64
    grams: UInt64
    """Set s is `grams[starts[s] : starts[s] + sizes[s]]`."""
    starts: Int64
    sizes: Int64
    answers: Int64
    """How many grams of each are the answer's."""


@dataclass(frozen=True, slots=True)
class Prefixes:
    starts: Int64
    keys: UInt64
    sizes: Int64
    bitmaps: UInt64


@dataclass(frozen=True, slots=True)
class JoinedSets:
    """As in `NearDuplicates`, but of sets: `jaccard[s]` of prompt and answer."""

    partner: Int64
    jaccard: npt.NDArray[np.float64]
    bounded: Bools
    kind: Int64
    alike: Int64


def prune_step(search: Search, eligible: Bools) -> Int32:
    """Step 1: the grams of each document, repeats included, or 0 where it certainly has no partner."""
    from tokpack.stages.near_dup import ngram_sets as kernels

    marks = search.of_batches(eligible)
    tokens = sum(
        int(np.diff(batch.offsets)[mark].sum()) for batch, mark in zip(search.batches, marks, strict=True)
    )
    share = min(1.0, max(0.1, 2 * (1 - search.threshold)))
    slots, shift = _slots(8 * share * tokens)
    sample = (search.n, np.uint64(share * (2**32 - 1)), np.uint64(shift))
    alone = search.scratch.zeros(len(eligible), np.int32)
    grams_of = search.scratch.zeros(len(eligible), np.int32)
    columns = [search.of_batches(column) for column in (eligible, alone, grams_of)]
    width, ranges = search.ranges(slots, 1 / 4)
    for first in map(np.uint64, ranges):
        table = np.zeros(width // 4, np.uint8)
        for view, mark in zip(search.views(), marks, strict=True):
            kernels.count_sample(*view, mark, *sample, first, table)
        place = (*sample, first, table)

        def prune(item: Any, place: Any = place) -> None:
            view, mark, own, grams = item
            kernels.find_survivors(*view, mark, *place, search.threshold, own, grams)

        search.run(prune, zip(search.views(), *columns, strict=True))
    return grams_of


def gather_step(search: Search, grams_of: Int32) -> tuple[Sets, int, int]:
    """The sets of documents with grams; and of a table of these the slots, and the shift of a hash to one."""
    from tokpack.stages.near_dup import ngram_sets as kernels

    position = np.flatnonzero(grams_of)
    total = int(grams_of.sum(dtype=np.int64))
    grams = search.scratch.zeros(total, np.uint64)
    starts, sizes, answers = (search.scratch.zeros(len(position), np.int64) for _ in range(3))

    def gather(item: tuple[View, Int32]) -> tuple[UInt64, Int64, Int64]:
        view, wanted = item
        found = np.empty(int(wanted.sum(dtype=np.int64)), np.uint64)
        size, answer = (np.empty(np.count_nonzero(wanted), np.int64) for _ in range(2))
        return found[: kernels.gather_sets(*view, wanted, search.n, found, size, answer)], size, answer

    end = survivors = 0
    items = zip(search.views(), search.of_batches(grams_of), strict=True)
    for number, (found, size, answer) in enumerate(ordered_map(gather, items, search.threads)):
        own = slice(survivors, survivors + len(size))
        starts[own], sizes[own], answers[own] = end + np.cumsum(size) - size, size, answer
        grams[end : end + len(found)] = found
        end, survivors = end + len(found), own.stop
        if number % AT_ONCE == 0:
            search.scratch.release()
    return Sets(position, grams[:end], starts, sizes, answers), *_slots(total)


def count_step(search: Search, grams: UInt64, slots: int, shift: int) -> UInt8:
    """In how many documents each gram of each set is, at most 255; chance company in its slot included."""
    from tokpack.stages.near_dup import ngram_sets as kernels

    counts = search.scratch.zeros(len(grams), np.uint8)
    width, ranges = search.ranges(slots, 1)
    chunks = _chunks(len(grams), GRAMS)
    cores = 1 << max(1, min(search.threads, width // LEAST_SLOTS)).bit_length() - 1
    for first in ranges:
        table = np.zeros(width, np.uint8)

        def count(part: slice, first: int = first, table: UInt8 = table) -> None:
            for chunk in chunks:
                kernels.count_documents(
                    grams[chunk], np.uint64(shift), np.uint64(first + part.start), table[part]
                )

        def look_up(chunk: slice, first: int = first, table: UInt8 = table) -> None:
            kernels.look_up(grams[chunk], np.uint64(shift), np.uint64(first), table, counts[chunk])

        search.run(count, _chunks(width, width // cores))  # all of them read all grams: each counts its slots
        search.run(look_up, chunks)
    return counts


def order_step(search: Search, sets: Sets, counts: UInt8) -> Prefixes:
    """Step 2: the rarest grams of each set, and its bitmap."""
    from tokpack.stages.near_dup import ngram_join as kernels
    from tokpack.stages.near_dup.ngram_sets import SLACK

    room = sets.sizes - np.ceil(search.threshold * sets.sizes - SLACK).astype(np.int64) + 1
    starts = np.cumsum(room) - room
    keys = search.scratch.zeros(int(room.sum()), np.uint64)
    sizes = search.scratch.zeros(len(starts), np.int64)
    bitmaps = search.scratch.zeros((len(starts), 8), np.uint64)

    def order(chunk: slice) -> None:
        kernels.order_prefixes(
            *(sets.grams, sets.starts[chunk], sets.sizes[chunk], search.threshold, counts),
            *(starts[chunk], keys, sizes[chunk], bitmaps[chunk]),
        )

    search.run(order, _chunks(len(starts), CHUNK))
    return Prefixes(starts, keys, sizes, bitmaps)


def join_step(
    search: Search, sets: Sets, prefixes: Prefixes, limit: int, block: int, parts: bool
) -> JoinedSets:
    """Step 3: who repeats whom, by numbers of sets. `limit`: candidates a set may cost."""
    from tokpack.stages.near_dup import ngram_join as kernels

    count, scratch = len(sets.position), search.scratch
    steps = scratch.full(count, limit * kernels.STEPS, np.int64)
    joined = JoinedSets(
        scratch.full(count, -1, np.int64),
        scratch.zeros((count, 2), np.float64),
        scratch.zeros(count, np.bool_),
        scratch.zeros(count, np.int64),
        scratch.full(count, -1, np.int64),
    )
    columns = (prefixes.starts, prefixes.keys, prefixes.sizes)
    for begin, end in _blocks(prefixes.sizes, block):
        own = slice(begin, end)
        entries = np.empty(int(prefixes.sizes[own].sum()), np.int32)
        slots, shift = _slots(len(entries), bits=48)
        begins = np.zeros(slots + 1, np.int32)
        kernels.lay_out_index(
            prefixes.starts[own], prefixes.keys, prefixes.sizes[own], np.uint64(shift), begins
        )
        index = (np.uint64(shift), begins, begins[:-1].copy(), entries)
        seen = np.full(end - begin, -1, np.int32)

        def join(chunk: slice, seen: Int32 = seen, index: Any = index, begin: int = begin) -> None:
            kernels.join(
                *(sets.grams, sets.starts, sets.sizes, search.threshold, *columns, prefixes.bitmaps),
                *(*index, seen, begin, chunk.start, chunk.stop, parts, sets.answers, steps),
                *(joined.partner, joined.jaccard, joined.bounded, joined.kind, joined.alike),
            )

        def join_later(chunk: slice, join: Any = join, size: int = end - begin) -> None:
            join(chunk, np.full(size, -1, np.int32))

        for chunk in _chunks(end, 4 * CHUNK, begin):
            join(chunk)
            scratch.release()
        search.run(join_later, _chunks(count, 4 * CHUNK, end))
    return joined


def _blocks(sizes: Int64, block: int) -> Iterator[tuple[int, int]]:
    """Ranges of sets whose prefixes have at most `block` grams together, at least one set each."""
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(ends):
        before = int(ends[begin] - sizes[begin])
        end = max(begin + 1, int(np.searchsorted(ends, before + block, side="right")))
        yield begin, end
        begin = end


def _chunks(end: int, size: int, begin: int = 0) -> list[slice]:
    return [slice(start, min(start + size, end)) for start in range(begin, end, size)]


def _slots(wanted: float, bits: int = 64) -> tuple[int, int]:
    """A power of two of at least `wanted` slots, and the shift that takes a hash of `bits` to one."""
    used = max(4, ceil(wanted - 1).bit_length())
    return 1 << used, bits - used
