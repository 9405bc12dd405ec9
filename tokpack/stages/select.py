"""Select: which documents to keep within a budget of tokens.

    quotas      the budget is shared among sources by their tokens; those with a `weight` share theirs by
                weight; what a source cannot use goes to the others; `max_tokens` caps a source
    diversity   within a source, documents that are no loose near duplicate of an earlier one come first
    quality     then the better answers (see `quality`), ties in seeded order

Documents are taken in this order until the next does not fit; smaller ones behind it may still do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack.stages.messages import Messages, as_bool
from tokpack.stages.planners.layout import noise

PASSES = 3
"""How often a source's rest of quota is offered to the documents that did not fit."""

Floats = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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
    source: npt.NDArray[np.int32],
    quality: npt.NDArray[np.float32],
    repeats: Bools,
    eligible: Bools,
    budget: int,
    weights: Floats,
    max_tokens: Int64,
    seed: int = 0,
) -> Bools:
    """Which of the eligible documents to keep: bool[documents].

    lengths: tokens of each document. weights, max_tokens: one a source, 0 for none given. budget: tokens over
    all sources, 0 for no limit but the sources' own.
    """
    count = len(weights)
    available = np.bincount(source, weights=np.where(eligible, lengths, 0), minlength=count).astype(np.int64)
    caps = np.where(max_tokens > 0, np.minimum(max_tokens, available), available)
    quotas = share_out(budget, caps, by_weight(weights, caps)) if budget else caps
    positions = np.flatnonzero(eligible)
    tie = noise(len(lengths), seed, "documents")[positions]
    order = positions[np.lexsort((tie, -quality[positions], repeats[positions]))]
    del positions, tie
    chosen = np.zeros(len(lengths), dtype=bool)
    for number in range(count):
        mine = order[source[order] == number]
        chosen[take(mine, lengths, int(quotas[number]))] = True
    if budget:
        # Rests of quotas that no document of their own source fits into.
        rest = min(budget, int(caps.sum())) - int(lengths[chosen].sum())
        open_sources = np.isin(source, np.flatnonzero(max_tokens == 0))
        left = order[~chosen[order] & open_sources[order]]
        chosen[take(left, lengths, rest)] = True
    return chosen


def by_weight(weights: Floats, caps: Int64) -> Floats:
    """Shares of the sources: their tokens, but what those with a weight have is dealt by weight among them.

    Weights [3, 1, 0], tokens [500, 300, 200] -> shares [600, 200, 200].
    """
    given = weights > 0
    if given.all():
        return weights
    scale = caps[given].sum() / max(weights[given].sum(), np.finfo(np.float64).tiny)
    return np.where(given, weights * scale, caps)


def share_out(budget: int, caps: Int64, weights: Floats) -> Int64:
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


def take(order: Int64, lengths: Int64, quota: int) -> Int64:
    """The first documents in order that fit the quota, then, a few times, those behind that still fit."""
    taken: list[Int64] = []
    for _ in range(PASSES):
        order = order[lengths[order] <= quota]
        fits = np.cumsum(lengths[order]) <= quota
        stop = len(fits) if fits.all() else int(np.argmin(fits))
        taken.append(order[:stop])
        quota -= int(lengths[order[:stop]].sum())
        order = order[stop:]
    return np.concatenate(taken) if taken else order[:0]
