"""The steps of the near-duplicate join, `near_dup` holds the reasoning: count, choose prefixes, join."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import ceil
from threading import Lock
from typing import Any, Final

import numpy as np

from tokpack.arrays import Bools, Float64, Int32, Int64, UInt8, UInt32, UInt64
from tokpack.engine.local import ordered_map
from tokpack.frozen import frozen
from tokpack.stages.scratch import Scratch
from tokpack.stages.selected_tokens import SelectedTokens

CHUNK: Final = 1 << 16
"""Documents that are joined with an earlier block at once on a core."""
STRIDE, SHARE = 1 << 13, 1 << 10
"""Documents of a block that are joined with those before them, and how many at once on a core."""
PIECE: Final = 1 << 20
"""Tokens in work at once on a core."""
AT_ONCE: Final = 8
"""After so many pieces of work the pages of scratch files are let go."""
LEAST_SLOTS: Final = 1 << 10
"""Of a table in memory."""


@frozen
class TokenSpans:
    """Some documents, as the kernels read them."""

    spans: Int64
    """int64[documents, 3]: addresses of a document's tokens and of their flags, and how many they are."""
    documents: slice
    """Where they stand among all documents, and their tokens among all tokens."""
    tokens: slice
    held: SelectedTokens
    """What lies at the addresses."""

    @property
    def room(self) -> int:
        return int(self.tokens.stop - self.tokens.start)


@frozen
class Search:
    """What the steps share: the documents, how they are compared, and the room there is."""

    batches: Sequence[SelectedTokens]
    parts: Int64
    """int64[1 or 2, 4]: which tokens are hashed together, see `ngram_sets`."""
    documents: int
    threshold: float
    n: int
    table_bytes: int
    scratch: Scratch
    threads: int

    def pieces(self) -> Iterator[TokenSpans]:
        """All documents, about PIECE tokens at a time."""
        documents = tokens = 0
        for batch in self.batches:
            spans, begins = batch.spans(), batch.offsets - batch.offsets[0]
            cuts = np.searchsorted(begins, np.arange(0, begins[-1], PIECE))
            for a, b in pairwise(np.unique([0, *cuts, len(batch)]).tolist()):
                own = slice(documents + a, documents + b)
                yield TokenSpans(
                    spans[a:b], own, slice(tokens + int(begins[a]), tokens + int(begins[b])), batch
                )
            documents, tokens = documents + len(batch), tokens + int(begins[-1])

    def ranges(self, slots: int) -> tuple[int, list[int]]:
        """How many of `slots`, a byte each, a table in memory has, a power of two, and where each begins."""
        width = slots
        while width > self.table_bytes and width > LEAST_SLOTS:
            width //= 2
        return width, list(range(0, slots, width))

    def run(self, function: Callable[[Any], None], items: Iterable[Any]) -> None:
        """On all cores; pages of scratch files are let go on the way."""
        for number, _ in enumerate(ordered_map(function, items, self.threads)):
            if number % AT_ONCE == AT_ONCE - 1:
                self.scratch.release()
        self.scratch.release()


@frozen
class Sets:
    """Of each document; one without a partner has an empty prefix."""

    starts: Int64
    prefixes: UInt32
    """The prefix of document d is `prefixes[starts[d] : starts[d] + prefix_sizes[d]]`."""
    prefix_sizes: Int64
    sizes: Int64
    answers: Int64
    bitmaps: UInt64


@frozen
class JoinedSets:
    """As in `NearDuplicates`."""

    partner: Int64
    parts: Float64
    bounded: Bools
    kind: Int64
    alike: Int64


def prefix_step(search: Search, eligible: Bools) -> Sets:
    """Steps 1 and 2: in how many documents grams are, and the rarest of each set."""
    from tokpack.stages.near_dup import ngram_sets as kernels

    scratch, threshold, documents = search.scratch, search.threshold, search.documents
    starts, tokens, wanted = scratch.zeros(documents, np.int64), 0, 0
    for piece in search.pieces():
        lengths = piece.spans[:, 2] * eligible[piece.documents]
        starts[piece.documents] = lengths - np.ceil(threshold * lengths - kernels.SLACK) + 1
        tokens, wanted = piece.tokens.stop, wanted + int(lengths.sum())
    room = int(starts.sum())
    starts[:] = np.cumsum(starts) - starts
    sets = Sets(
        starts,
        scratch.zeros(room, np.uint32),
        scratch.zeros(documents, np.int64),
        scratch.zeros(documents, np.int64),
        scratch.zeros(documents, np.int64),
        scratch.zeros((documents, 8), np.uint64),
    )
    # Enough for more than 1 - t of the grams to be alone in a slot, should all of them differ.
    slots, shift = _slots(max(0.5, 20 * (1 - threshold) ** 2) * wanted)
    width, ranges = search.ranges(slots)
    counts = scratch.zeros(tokens, np.uint8) if len(ranges) > 1 else None
    for first in ranges:
        table, lock = np.zeros(width, np.uint8), Lock()
        place = (np.uint64(shift), np.uint64(first))

        def count(piece: TokenSpans, place: Any = place, table: UInt8 = table, lock: Lock = lock) -> None:
            found = np.empty(piece.room + 1, np.uint64)
            own = (piece.spans, search.parts, search.n, eligible[piece.documents])
            found = found[: kernels.find_slots(*own, *place, np.uint64(len(table)), found)]
            with lock:
                kernels.count_slots(found, table)

        def choose(piece: TokenSpans, place: Any = place, table: UInt8 = table) -> None:
            own = piece.documents
            kernels.choose_prefixes(
                *(piece.spans, search.parts, search.n, eligible[own], *place, table, place[1] == ranges[-1]),
                np.empty(piece.room, np.uint8) if counts is None else counts[piece.tokens],
                *(threshold, starts[own], sets.prefixes, sets.prefix_sizes[own]),
                *(sets.sizes[own], sets.answers[own], sets.bitmaps[own]),
            )

        search.run(count, search.pieces())
        search.run(choose, search.pieces())
    return sets


def join_step(search: Search, sets: Sets, limit: int, block: int) -> JoinedSets:
    """Step 3: who repeats whom. `limit`: candidates a document may cost."""
    from tokpack.stages.near_dup import ngram_join as kernels

    documents, scratch = search.documents, search.scratch
    steps = scratch.full(documents, limit * kernels.STEPS, np.int64)
    joined = JoinedSets(
        scratch.full(documents, -1, np.int64),
        scratch.zeros((documents, 2), np.float64),
        scratch.zeros(documents, np.bool_),
        scratch.zeros(documents, np.int64),
        scratch.full(documents, -1, np.int64),
    )
    spans, held = scratch.zeros((documents, 3), np.int64), []
    for piece in search.pieces():
        spans[piece.documents] = piece.spans
        held.append(piece.held)
    own = (spans, search.parts, search.n, spans[:, 2].max(initial=1), search.threshold)
    columns = (sets.starts, sets.prefixes, sets.prefix_sizes)
    for begin, end in _blocks(sets.prefix_sizes, block):
        of_block = [column[begin:end] for column in (sets.starts, sets.prefix_sizes)]
        entries = np.empty(int(of_block[1].sum()), np.int32)
        slots, shift = _slots(len(entries) / 2, bits=32)
        index = (np.uint64(shift), np.zeros((slots, 2), np.int32), entries)
        kernels.lay_out_index(of_block[0], sets.prefixes, of_block[1], *index[:2])
        free: deque[Int32] = deque()

        def join(
            documents: slice,
            adds: bool = False,
            begin: int = begin,
            size: int = end - begin,
            index: Any = index,
            free: deque[Int32] = free,
        ) -> None:
            seen = free.pop() if free else np.full(size, -1, np.int32)
            kernels.join(
                *(*own, *columns, sets.sizes, sets.answers, sets.bitmaps),
                *(*index, seen, begin, documents.start, documents.stop, adds, steps),
                *(joined.partner, joined.parts, joined.bounded, joined.kind, joined.alike),
            )
            free.append(seen)

        for stride in _chunks(end, STRIDE, begin):
            for _ in ordered_map(join, _chunks(stride.stop, SHARE, stride.start), search.threads):
                pass
            join(stride, adds=True)
            if stride.stop % CHUNK == 0:
                scratch.release()
        search.run(join, _chunks(documents, CHUNK, end))
    return joined


def _blocks(sizes: Int64, block: int) -> Iterator[tuple[int, int]]:
    """Ranges of documents whose prefixes have at most `block` grams together, at least one document each."""
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
    used = min(bits, max(4, ceil(wanted - 1).bit_length()))
    return 1 << used, bits - used
