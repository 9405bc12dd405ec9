"""Select: which documents to keep within a budget of tokens.

    quotas      the budget is shared among sources by their tokens; those with a `weight` share theirs by
                weight; what a source cannot use goes to the others; `max_tokens` caps a source
    diversity   within a source, documents that are no loose near duplicate of an earlier one come first
    quality     then the better answers (see `quality`), ties in seeded order

Documents are taken in this order until the next does not fit; smaller ones behind it may still do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack.arrays import Bools, Float32, Float64, Int32, Int64, UInt64
from tokpack.stages.messages import Messages, as_bool
from tokpack.stages.planners.layout import noise

PASSES = 3
"""How often a source's rest of quota is offered to the documents that did not fit."""
SORTED: Final = 1 << 22
"""Documents that are sorted at once, about."""
PER_RANGE: Final = 64
"""Of a sample, in so many documents."""
SLICE = 1 << 20


def quality(documents: pl.DataFrame) -> pl.Series:
    """A score of each document's answers, 0 to 1: half for the share of letters, digits and spaces, a quarter
    for the share of distinct words, a quarter for length (log scale, full at 1,000 characters).

    The first two are the figures behind Gopher's symbol and repetition rules (Rae et al. 2021).
    """
    messages = Messages.of(documents)
    mine = as_bool(messages.roles.is_in(["assistant", "text"]))
    answers = pl.DataFrame(
        {"text": messages.lists(messages.contents, mine).list.join("\n", ignore_nulls=True)}
    )
    chars = pl.col("text").str.len_chars().cast(pl.Float64)
    words = pl.col("text").str.split(" ")
    plain = pl.col("text").str.count_matches(r"[\p{L}\p{N}\s]") / chars.clip(1)
    distinct = words.list.n_unique() / words.list.len().clip(1)
    length = (chars.log1p() / np.log1p(1000.0)).clip(0, 1)
    score = (0.5 * plain + 0.25 * distinct + 0.25 * length).cast(pl.Float32)
    return answers.select(score.alias("quality")).to_series()


def select(
    *,
    lengths: Int64,
    source: Int32,
    quality: Float32,
    repeats: Bools,
    eligible: Bools,
    budget: int,
    weights: Float64,
    max_tokens: Int64,
    seed: int = 0,
) -> Bools:
    """Which of the eligible documents to keep: bool[documents].

    lengths: tokens of each document. weights, max_tokens: one a source, 0 for none given. budget: tokens over
    all sources, 0 for no limit but the sources' own.
    """
    available = tokens_by_source(source, lengths, eligible, len(weights))
    caps = np.where(max_tokens > 0, np.minimum(max_tokens, available), available)
    quotas = share_out(budget, caps, by_weight(weights, caps)) if budget else caps
    in_order = partial(best_first, repeats, quality, noise(len(lengths), seed, "documents"))
    whole = quotas >= available
    chosen = eligible & whole[source]
    for number in np.flatnonzero(~whole).tolist():
        mine = np.flatnonzero(eligible & (source == number))
        for some in take(in_order(mine), lengths, int(quotas[number])):
            chosen[some] = True
    if budget:
        # Rests of quotas that no document of their own source fits into.
        rest = min(budget, int(caps.sum())) - int(lengths[chosen].sum())
        left = np.flatnonzero(eligible & ~chosen & (lengths <= rest) & (max_tokens == 0)[source])
        for some in take(in_order(left), lengths, rest):
            chosen[some] = True
    return chosen


def tokens_by_source(
    source: npt.NDArray[np.integer[Any]], lengths: Int64, eligible: Bools, count: int
) -> Int64:
    """Of the eligible documents: int64[count]. A slice at a time, as numpy widens what it counts."""
    tokens = np.zeros(count, np.int64)
    for first in range(0, len(source), SLICE):
        some = slice(first, first + SLICE)
        counts = np.where(eligible[some], lengths[some], 0)
        tokens += np.bincount(source[some], weights=counts, minlength=count).astype(np.int64)
    return tokens


def best_first(repeats: Bools, quality: Float32, tie: UInt64, positions: Int64) -> Iterator[Int64]:
    """The positions as they are taken, about SORTED of them at a time: their order is never there as a whole.

    Those of one range of (repeats, quality, tie) come together; what parts the ranges is drawn from a sample.
    """
    sample = positions[:: max(1, SORTED // PER_RANGE)]
    cuts = np.sort(_rank(repeats, quality, tie, sample))[PER_RANGE::PER_RANGE]
    ranges = np.empty(len(positions), np.uint16)
    for first in range(0, len(positions), SLICE):
        some = slice(first, first + SLICE)
        ranges[some] = np.searchsorted(cuts, _rank(repeats, quality, tie, positions[some]), side="right")
    for number in range(len(cuts) + 1):
        some = positions[ranges == number]
        yield some[np.lexsort((tie[some], -quality[some], repeats[some]))]


def _rank(repeats: Bools, quality: Float32, tie: UInt64, at: Int64) -> UInt64:
    """Their place among all, as far as 64 bits tell: repeats last, the better first (no quality is below 0),
    then by the tie."""
    bits = (quality[at] + np.float32(0)).view(np.int32)  # in the order of the floats
    worse = (np.int32(0x7FFFFFFF) - bits).astype(np.uint64) << np.uint64(32)
    last = repeats[at].astype(np.uint64) << np.uint64(63)
    rank: UInt64 = last | worse | tie[at] >> np.uint64(32)
    return rank


def by_weight(weights: Float64, caps: Int64) -> Float64:
    """Shares of the sources: their tokens, but what those with a weight have is dealt by weight among them.

    Weights [3, 1, 0], tokens [500, 300, 200] -> shares [600, 200, 200].
    """
    given = weights > 0
    if given.all():
        return weights
    scale = caps[given].sum() / max(weights[given].sum(), np.finfo(np.float64).tiny)
    return np.where(given, weights * scale, caps)


def share_out(budget: int, caps: Int64, weights: Float64) -> Int64:
    """Split a budget by weights, no share over its cap; what is over goes to the others again."""
    quotas = np.zeros(len(caps), dtype=np.int64)
    for _ in range(len(caps)):
        rest = budget - int(quotas.sum())
        free = (quotas < caps) & (weights > 0)
        if rest <= 0 or not free.any():
            break
        part = np.floor(rest * weights * free / (weights * free).sum()).astype(np.int64)
        if not part.any():
            break
        quotas = np.minimum(caps, quotas + part)
    return quotas


def take(order: Iterable[Int64], lengths: Int64, quota: int) -> Iterator[Int64]:
    """The first documents in order that fit the quota, then, a few times, those behind that still fit."""
    passes, most = PASSES, quota
    for some in order:
        left = some
        while True:
            left = left[lengths[left] <= most]
            sums = np.cumsum(lengths[left])
            stop = int(np.searchsorted(sums, quota, side="right"))
            yield left[:stop]
            quota -= int(sums[stop - 1]) if stop else 0
            if stop == len(left):
                break
            passes -= 1
            if not passes:
                return
            left, most = left[stop:], quota
