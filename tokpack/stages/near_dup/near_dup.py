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

It is a prefix-filter join (Bayardo et al. 2007, Xiao et al. 2008):

1. *Counts.* A table of bytes tells in how many documents a gram is, at most 255; repeats in a document and
   chance company in its slot only make a gram look more frequent. J(A, B) >= t needs |A - B| <= (1 - t)|A|: a
   document with more grams of its own has no partner and is done.
2. *Prefix.* Grams are ordered rarest first, by one order for all sets. Two sets that reach t share one of
   their |A| - ceil(t|A|) + 1 rarest grams.
3. *Join.* Each document looks these up in an index of the kept ones. Sizes and a 512-bit parity bitmap rule
   out most candidates; the sets of the rest are hashed anew from their tokens, and intersected.

No set is stored: to hash a token anew takes less time than to write and read 8 bytes, the more so where a
virtual machine has to find fresh memory. Places in large tables are fetched before they are needed.

Memory is bounded, whatever the number of documents (`table_bytes`, `folder`). The batches are read twice
(count, choose), then the tokens of candidates. What is one number a document, or a gram of a prefix, lies in
files (`Scratch`). Tables of counts are made for a range of hashes at a time, as many ranges as it takes. The
index is one of BLOCK grams of prefixes. A block is joined with itself, some documents at a time: on all cores
with those that were kept before them, then in order among each other. All later documents look their grams up
in its index, on all cores; so whoever is found first is the first there is. Blocks depend on the documents
alone, so the memory changes nothing in the result.

The worst case is quadratic (many documents from one small template), so a document looks at no more than
`candidate_limit` candidates; one that is kept because of that is marked `bounded`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Final, Literal

import numpy as np

from tokpack.arrays import Bools, Float64, Int64
from tokpack.engine import default_workers
from tokpack.errors import UsageError
from tokpack.frozen import frozen
from tokpack.schema import CONTENT, TRAINED
from tokpack.stages.near_dup.steps import Search, join_step, prefix_step
from tokpack.stages.scratch import Scratch
from tokpack.stages.selected_tokens import SelectedTokens

CANDIDATE_LIMIT: Final = 10_000
SHORT: Final = 10
"""Prompts and answers of fewer tokens are compared as a whole: they have few n-grams, or none."""
BLOCK: Final = 1 << 26
"""Grams of prefixes in an index, which takes 12 bytes for each."""

On = Literal["both", "all", "prompt", "answer"]
_UNTRAINED, _EITHER = CONTENT, CONTENT | TRAINED

log = logging.getLogger(__name__)


@frozen
class NearDuplicates:
    """One entry per document, in input order."""

    partner: Int64
    """Position of the kept document that a removed one repeats, -1 for a kept one."""
    parts: Float64
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
    def jaccard(self) -> Float64:
        """Exact similarity to the partner, of the part that has less of it; 0 for a kept document."""
        least: Float64 = self.parts.min(axis=1)
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
    documents = sum(len(batch) for batch in batches)
    eligible = np.ones(documents, np.bool_) if eligible is None else np.ascontiguousarray(eligible, np.bool_)
    if len(eligible) != documents:
        raise ValueError(f"{len(eligible)} eligible marks for {documents} documents")
    search = Search(
        batches=batches,
        parts=_parts(batches, on, n),
        documents=documents,
        threshold=threshold,
        n=n,
        table_bytes=table_bytes,
        scratch=Scratch(folder),
        threads=threads or default_workers(),
    )
    joined = join_step(search, prefix_step(search, eligible), candidate_limit, block)
    return NearDuplicates(
        **{field.name: getattr(joined, field.name) for field in fields(joined)},
        seconds=time.perf_counter() - started,
    )


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


def _parts(batches: Sequence[SelectedTokens], on: On, n: int) -> Int64:
    """Which tokens of a document are hashed together, and how: see `ngram_sets`."""
    bits = {batch.bit for batch in batches} or {0}
    if len(bits) > 1:
        raise ValueError("batches select their tokens by different bits")
    bit, shortest = bits.pop(), max(n, SHORT)
    if on != "all" and any(batch.flags is None for batch in batches):
        raise ValueError("prompt and answer are told apart by flags")
    parts = {
        "all": [(bit, bit, n, -1)],
        "prompt": [(_EITHER, _UNTRAINED, shortest, -1)],
        "answer": [(_EITHER, _EITHER, shortest, -1)],
        "both": [(_EITHER, _UNTRAINED, shortest, 0), (_EITHER, _EITHER, shortest, 1)],
    }[on]
    return np.array(parts, np.int64)
