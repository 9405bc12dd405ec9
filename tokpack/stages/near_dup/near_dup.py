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

Memory is bounded, whatever the number of documents (`memory`, `folder`). The batches are read three times
(count, prune, gather), the last time for the others alone. Sets and everything else that is one number a gram
or a document lie in files (`Scratch`), read from end to end but for the sets of candidates that the bitmap
leaves. Tables that count grams are made for a range of hashes at a time, as many ranges as it takes. The
index is one of BLOCK grams of prefixes: a block of documents is joined with itself, then all later ones look
their grams up in its index, on all cores; so whoever is found first is the first there is. Blocks depend on
the documents alone, so the memory changes nothing in the result.

The worst case is quadratic (many documents from one small template), so a document looks at no more than
`candidate_limit` candidates; one that is kept because of that is marked `bounded`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tokpack.engine import default_workers
from tokpack.errors import UsageError
from tokpack.schema import CONTENT, TRAINED
from tokpack.stages.near_dup.steps import (
    Search,
    View,
    count_step,
    gather_step,
    join_step,
    order_step,
    prune_step,
)
from tokpack.stages.scratch import Scratch
from tokpack.stages.selected_tokens import Bools, Int64, SelectedTokens

CANDIDATE_LIMIT: Final = 10_000
SHORT: Final = 10
"""Prompts and answers of fewer tokens are compared as a whole: they have few n-grams, or none."""
BLOCK: Final = 1 << 26
"""Grams of prefixes in an index, which takes 12 bytes for each."""

On = Literal["both", "all", "prompt", "answer"]
_UNTRAINED, _EITHER = CONTENT, CONTENT | TRAINED

UInt64 = npt.NDArray[np.uint64]

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


def find_near_duplicates(
    batches: Sequence[SelectedTokens],
    threshold: float = 0.8,
    n: int = 5,
    candidate_limit: int = CANDIDATE_LIMIT,
    eligible: Bools | None = None,
    threads: int | None = None,
    on: On = "all",
    table_bytes: int = 1 << 33,
    folder: Path | None = None,
    block: int = BLOCK,
) -> NearDuplicates:
    """Which documents nearly repeat an earlier one; positions count over all batches.

    `eligible`: False leaves a document out: it neither removes nor is removed. `candidate_limit`:
    candidates compared per document; 16 index entries passed over, or 256 grams intersected, count as
    one. `threads`: the machine's cores by default. `table_bytes`: memory of a table of counts. `folder`:
    where the rest lies; in memory without one. `block`: grams of prefixes in an index. The result depends
    neither on them nor on how documents are cut into batches; but where the candidate limit is reached,
    `block` decides in which order candidates are looked at.
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
    ends = np.cumsum([0, *(len(batch) for batch in batches)])
    documents = int(ends[-1])
    eligible = np.ones(documents, np.bool_) if eligible is None else np.ascontiguousarray(eligible, np.bool_)
    if len(eligible) != documents:
        raise ValueError(f"{len(eligible)} eligible marks for {documents} documents")
    scratch = Scratch(folder)
    search = Search(
        batches=batches,
        view=partial(_view, on=on, n=n),
        ends=ends,
        threshold=threshold,
        n=n,
        table_bytes=table_bytes,
        scratch=scratch,
        threads=threads or default_workers(),
    )
    sets, slots, shift = gather_step(search, prune_step(search, eligible))
    prefixes = order_step(search, sets, count_step(search, sets.grams, slots, shift))
    joined = join_step(search, sets, prefixes, candidate_limit, block, on == "both")
    found = NearDuplicates(
        scratch.full(documents, -1, np.int64),
        scratch.zeros((documents, 2), np.float64),
        scratch.zeros(documents, np.bool_),
        scratch.zeros(documents, np.int64),
        scratch.full(documents, -1, np.int64),
        0.0,
    )
    hit, seen_alike = joined.partner >= 0, joined.kind > 0
    found.partner[sets.position[hit]] = sets.position[joined.partner[hit]]
    found.alike[sets.position[seen_alike]] = sets.position[joined.alike[seen_alike]]
    found.parts[sets.position] = joined.jaccard
    found.bounded[sets.position] = joined.bounded
    found.kind[sets.position] = joined.kind
    return replace(found, seconds=time.perf_counter() - started)


@cache
def _compile_kernels() -> None:
    """Build the compiled loops on first use, or read them from numba's cache."""
    from tokpack.stages.near_dup import ngram_join, ngram_sets

    folder = ngram_join.join.stats.cache_path
    if not folder or not any(Path(folder).glob("ngram_join.join-*.nbi")):
        log.info("the search for near duplicates is compiled first, once: a few seconds")
    for kernel, signature in (ngram_sets.SIGNATURES | ngram_join.SIGNATURES).items():
        kernel.compile(signature)
        kernel.disable_compile()  # or a writable array would compile anew


def _view(batch: SelectedTokens, on: On, n: int) -> View:
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
