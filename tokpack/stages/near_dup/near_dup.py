"""Near-duplicates by an exact set-similarity join over token n-grams.

Documents are compared as sets of the 64-bit hashes of their n-grams of selected tokens; one shorter
than n tokens is a set of one hash, of the whole sequence, so it meets only its equals; an empty one
meets nothing. In input order, a document is removed when its Jaccard similarity with a document kept
before it reaches the threshold t, and names the first such document. The promise: every removed
document names a kept one and their exact similarity, and no two kept ones reach t. Two different
n-grams among m share a hash with probability m**2 / 2**65 (under one in a thousand for 100 million).

`on` says what is compared. `all`: the selected tokens. `prompt`, `answer`: the selected tokens that are not
trained, or that are. `both`: a document is removed when prompt and answer, each by itself, reach t. A part of
fewer than SHORT tokens is a set of one hash and so meets only its equals; two empty parts are the same. The
candidates of `both` are the pairs that reach t as a whole, where the whole is the disjoint union of its two
parts: for p/q >= t and r/s >= t, (p + r)/(q + s) >= t, so no pair is missed; and where the whole reaches t,
one part at least does. Kept documents that share one part with such an earlier one are counted on the way.

It is a prefix-filter join (Bayardo et al. 2007, Xiao et al. 2008) with two cuts around it:

1. *Uniqueness.* J(A, B) >= t needs |A - B| <= (1 - t)|A|. Grams below a hash limit (40 % of them at
   t = 0.8) are counted to 2 in a bit table; a document with more grams of its own than (1 - t)|A| has
   no partner and is done. Table collisions and repeated grams only spare documents.
2. *Prefix.* The sets of the others are gathered, grams ordered rarest first. Two sets that reach t
   share one of their |A| - ceil(t|A|) + 1 rarest grams.
3. *Join.* Each document looks these up in an index of the kept ones. Sizes and a 512-bit parity
   bitmap rule out most candidates; the rest are intersected.

The batches are read three times (count, prune, gather), the last time for the others alone. Memory is
8 bytes a gram of those and about half as much again. The worst case is quadratic (many documents from
one small template), so a document looks at no more than `candidate_limit` candidates; one that is
kept because of that is marked `bounded`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tokpack.errors import UsageError
from tokpack.schema import CONTENT, TRAINED
from tokpack.stages.selected_tokens import Bools, Int32, Int64, SelectedTokens, UInt8

CANDIDATE_LIMIT: Final = 10_000
SHORT: Final = 10
"""Prompts and answers of fewer tokens are compared as a whole: they have few n-grams, or none."""

On = Literal["both", "all", "prompt", "answer"]
_UNTRAINED, _EITHER = CONTENT, CONTENT | TRAINED

UInt64 = npt.NDArray[np.uint64]
_View = tuple[Int32, UInt8, int, Int64, Int64]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """One entry per document, in input order."""

    partner: Int64
    """Position of the kept document that a removed one repeats, -1 for a kept one."""
    parts: npt.NDArray[np.float64]
    """float64[documents, 2], similarity to the partner of the prompt and of the answer; the same twice where
    documents are compared as one. 0 for a kept document."""
    bounded: Bools
    """Kept although the candidate limit cut its search short: a partner may exist."""
    kind: Int64
    """For a kept document, what it has in common with an earlier kept one that it is near as a whole:
    SAME_ANSWER or SAME_PROMPT, the most found; 0: nothing, or not asked for."""
    alike: Int64
    """That earlier document, or -1."""
    seconds: float

    @property
    def jaccard(self) -> npt.NDArray[np.float64]:
        """Exact similarity to the partner, of the part that has less of it; 0 for a kept document."""
        least: npt.NDArray[np.float64] = self.parts.min(axis=1)
        return least

    @property
    def removed(self) -> Bools:
        return self.partner >= 0


@dataclass(frozen=True, slots=True)
class _Sets:
    """The documents that may have a partner, in input order."""

    position: Int64
    grams: UInt64
    """Set s is `grams[starts[s] : starts[s] + sizes[s]]`."""
    starts: Int64
    sizes: Int64
    answers: Int64
    """How many grams of each are the answer's."""


@dataclass(frozen=True, slots=True)
class _Prefixes:
    starts: Int64
    keys: UInt64
    sizes: Int64
    bitmaps: UInt64


def find_near_duplicates(
    batches: Sequence[SelectedTokens],
    threshold: float = 0.8,
    n: int = 5,
    candidate_limit: int = CANDIDATE_LIMIT,
    eligible: Bools | None = None,
    threads: int | None = None,
    on: On = "all",
) -> NearDuplicates:
    """Which documents nearly repeat an earlier one; positions count over all batches.

    `eligible`: False leaves a document out: it neither removes nor is removed. `candidate_limit`:
    candidates compared per document; 16 index entries passed over, or 256 grams intersected, count as
    one. `threads`: the machine's cores by default. The result depends neither on them nor on how
    documents are cut into batches.
    """
    if not 0 < threshold <= 1:
        raise UsageError(
            f"a similarity threshold of {threshold:g} is not above 0 and at most 1",
            where="near_dup",
            hint="0.8 is usual",
        )
    if n < 1 or candidate_limit < 1:
        what = f"n = {n}" if n < 1 else f"a candidate limit of {candidate_limit}"
        raise UsageError(f"{what} is below 1", where="near_dup")
    started = time.perf_counter()
    _compile_kernels()
    documents = sum(len(batch) for batch in batches)
    eligible = np.ones(documents, np.bool_) if eligible is None else np.ascontiguousarray(eligible, np.bool_)
    if len(eligible) != documents:
        raise ValueError(f"{len(eligible)} eligible marks for {documents} documents")
    views = [_view(batch, on, n) for batch in batches]
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        grams_of = _prune(pool, views, eligible, threshold, n)
        sets, counts, shift = _gather(pool, views, grams_of, n)
        prefixes = _order(pool, sets, counts, shift, threshold)
    del counts
    found = NearDuplicates(
        np.full(documents, -1, np.int64),
        np.zeros((documents, 2)),
        np.zeros(documents, np.bool_),
        np.zeros(documents, np.int64),
        np.full(documents, -1, np.int64),
        0.0,
    )
    _join(sets, prefixes, threshold, candidate_limit, on == "both", found)
    return replace(found, seconds=time.perf_counter() - started)


@cache
def _compile_kernels() -> None:
    """Build the compiled loops on first use, or read them from numba's cache."""
    from tokpack.stages.near_dup import ngram_join, ngram_sets

    folder = ngram_join.join.stats.cache_path
    if not folder or not any(Path(folder).glob("ngram_join.join-*.nbi")):
        log.warning("the search for near duplicates is compiled first, once: a few seconds")
    for kernel, signature in (ngram_sets.SIGNATURES | ngram_join.SIGNATURES).items():
        kernel.compile(signature)
        kernel.disable_compile()  # or a writable array would compile anew


def _prune(pool: Executor, views: Sequence[_View], eligible: Bools, threshold: float, n: int) -> Int64:
    """Step 1: the grams of each document, repeats included, or 0 where it certainly has no partner."""
    from tokpack.stages.near_dup import ngram_sets as kernels

    ends = _ends(views)
    marks = _split(eligible, ends)
    tokens = sum(int(np.diff(view[-1])[mark].sum()) for view, mark in zip(views, marks, strict=True))
    share = min(1.0, max(0.1, 2 * (1 - threshold)))
    slots, shift = _slots(8 * share * tokens)
    table = np.zeros(slots // 4, np.uint8)
    sample = (n, np.uint64(share * (2**32 - 1)), np.uint64(shift), table)
    for view, mark in zip(views, marks, strict=True):
        kernels.count_sample(*view, mark, *sample)
    grams_of = np.zeros(len(eligible), np.int64)

    def prune(view: _View, mark: Bools, grams: Int64) -> None:
        kernels.find_survivors(*view, mark, *sample, threshold, grams)

    list(pool.map(prune, views, marks, _split(grams_of, ends)))
    return grams_of


def _gather(pool: Executor, views: Sequence[_View], grams_of: Int64, n: int) -> tuple[_Sets, UInt8, int]:
    """The sets of documents with grams, and in how many documents each gram is.

    The counts stop at 255; a gram's is at `hash >> shift`, chance company there included.
    """
    from tokpack.stages.near_dup import ngram_sets as kernels

    position = np.flatnonzero(grams_of)
    grams = np.empty(int(grams_of.sum()), np.uint64)
    starts = np.cumsum(grams_of[position]) - grams_of[position]
    sizes, answers = np.empty(len(position), np.int64), np.empty(len(position), np.int64)
    ends = _ends(views)
    cuts = np.searchsorted(position, ends)
    starts_of, sizes_of, answers_of = (_split(column, cuts) for column in (starts, sizes, answers))

    def gather(view: _View, wanted: Int64, start: Int64, size: Int64, answer: Int64) -> None:
        kernels.gather_sets(*view, wanted, n, start, grams, size, answer)

    slots, shift = _slots(len(grams))
    counts = np.zeros(slots, np.uint8)
    done = pool.map(gather, views, _split(grams_of, ends), starts_of, sizes_of, answers_of)
    for _, start, size in zip(done, starts_of, sizes_of, strict=True):
        kernels.count_documents(grams, start, size, np.uint64(shift), counts)
    return _Sets(position, grams, starts, sizes, answers), counts, shift


def _order(pool: Executor, sets: _Sets, counts: UInt8, shift: int, threshold: float) -> _Prefixes:
    """Step 2: the rarest grams of each set, and its bitmap."""
    from tokpack.stages.near_dup import ngram_join as kernels
    from tokpack.stages.near_dup.ngram_sets import SLACK

    room = sets.sizes - np.ceil(threshold * sets.sizes - SLACK).astype(np.int64) + 1
    starts = np.cumsum(room) - room
    keys = np.empty(int(room.sum()), np.uint64)
    sizes, bitmaps = np.zeros(len(starts), np.int64), np.zeros((len(starts), 8), np.uint64)

    def order(start: Int64, size: Int64, *prefix: npt.NDArray[Any]) -> None:
        at, length, bitmap = prefix
        kernels.order_prefixes(
            sets.grams, start, size, threshold, np.uint64(shift), counts, at, keys, length, bitmap
        )

    cuts = np.append(np.arange(0, len(starts), 8192), len(starts))
    columns = (sets.starts, sets.sizes, starts, sizes, bitmaps)
    list(pool.map(order, *(_split(column, cuts) for column in columns)))
    return _Prefixes(starts, keys, sizes, bitmaps)


def _join(
    sets: _Sets,
    prefixes: _Prefixes,
    threshold: float,
    candidate_limit: int,
    parts: bool,
    found: NearDuplicates,
) -> None:
    """Step 3: fill `found`."""
    from tokpack.stages.near_dup import ngram_join as kernels

    prefix = (prefixes.starts, prefixes.keys, prefixes.sizes)
    entries = np.empty(int(prefixes.sizes.sum()), np.int32)
    slots, shift = _slots(len(entries), bits=48)
    begins = np.zeros(slots + 1, np.int32)
    kernels.lay_out_index(*prefix, np.uint64(shift), begins)
    count = len(sets.position)
    seen = np.full(count, -1, np.int32)
    partner, jaccard, bounded = np.empty(count, np.int64), np.zeros((count, 2)), np.zeros(count, np.bool_)
    kind, alike = np.zeros(count, np.int64), np.zeros(count, np.int64)
    kernels.join(
        *(sets.grams, sets.starts, sets.sizes, threshold, *prefix, prefixes.bitmaps),
        *(np.uint64(shift), begins, begins[:-1].copy(), entries, seen),
        *(candidate_limit, parts, sets.answers, partner, jaccard, bounded, kind, alike),
    )
    hit, seen_alike = partner >= 0, kind > 0
    found.partner[sets.position[hit]] = sets.position[partner[hit]]
    found.alike[sets.position[seen_alike]] = sets.position[alike[seen_alike]]
    for whole, own in ((found.parts, jaccard), (found.bounded, bounded), (found.kind, kind)):
        whole[sets.position] = own


def _slots(wanted: float, bits: int = 64) -> tuple[int, int]:
    """A power of two of at least `wanted` slots, and the shift that takes a hash of `bits` to one."""
    used = max(4, ceil(wanted - 1).bit_length())
    return 1 << used, bits - used


def _ends(views: Sequence[_View]) -> Int64:
    return np.cumsum([0, *(len(offsets) - 1 for *_, offsets in views)])


def _split(array: npt.NDArray[Any], cuts: Int64) -> list[npt.NDArray[Any]]:
    return [array[a:b] for a, b in pairwise(cuts)]


def _view(batch: SelectedTokens, on: On, n: int) -> _View:
    """What the kernels read of a batch: its tokens, and how each part of a document is chosen and hashed."""
    flags = np.empty(0, np.uint8) if batch.flags is None else batch.flags
    bit, shortest = batch.bit, max(n, SHORT)
    parts = {
        "all": [(batch.bit, n, -1)],
        "prompt": [(_UNTRAINED, shortest, -1)],
        "answer": [(_EITHER, shortest, -1)],
        "both": [(_UNTRAINED, shortest, 0), (_EITHER, shortest, 1)],
    }[on]
    if on != "all":
        if batch.flags is None:
            raise ValueError("prompt and answer are told apart by flags")
        bit = _EITHER
    return (
        np.ascontiguousarray(batch.tokens, np.int32),
        np.ascontiguousarray(flags, np.uint8),
        bit,
        np.array(parts, np.int64),
        np.ascontiguousarray(batch.offsets, np.int64),
    )
