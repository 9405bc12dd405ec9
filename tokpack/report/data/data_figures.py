"""What is in the data, source by source, and how rows come out: lengths, trained share, what other capacities
would cut, the longest documents, free slots, and how long ranks wait."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import polars as pl

from tokpack.arrays import Float64, Int64
from tokpack.cost.capacity import CAPACITIES
from tokpack.cost.training import CostedDocuments, Lengths
from tokpack.ranges import counted_in
from tokpack.report.values import LongDocument, Ranks, RowClass, SourceFigures, Truncation, Waiting
from tokpack.settings.config import PlanConfig
from tokpack.stages.plan import Plan
from tokpack.stages.planners.deal import deal, row_costs, row_order
from tokpack.way.corpus import Corpus

LONGEST = 10
FREE = (0.0, 0.001, 0.01, 0.05, 0.10, 0.25, 1.0)
"""Classes of rows: free slots up to this share of the capacity."""
QUANTILES = (50, 90, 99)
QUANTILE_NAMES = ("p50", "p90", "p99", "max")
SLICE = 1 << 18
"""Documents in work at a time."""


def quantiles(tokens: Lengths) -> dict[str, int]:
    """`p50`, `p90`, `p99` and `max`: lengths that so many percent do not exceed."""
    if not len(tokens):
        return dict.fromkeys(QUANTILE_NAMES, 0)
    found = np.percentile(tokens, [*QUANTILES, 100], method="inverted_cdf")
    return {name: int(value) for name, value in zip(QUANTILE_NAMES, found, strict=True)}


def counted_quantiles(tokens: Lengths, counts: Int64) -> dict[str, int]:
    """`quantiles` of ascending lengths that are there so many times."""
    if not len(tokens):
        return quantiles(tokens)
    ends = np.cumsum(counts)
    last = int(ends[-1]) - 1
    at = [*(max(0, math.ceil((last + 1) * (q / 100) - 1)) for q in QUANTILES), last]
    return dict(zip(QUANTILE_NAMES, tokens[np.searchsorted(ends, at, side="right")].tolist(), strict=True))


def source_figures(corpus: Corpus, pieces: pl.DataFrame, names: list[str]) -> list[SourceFigures]:
    """Kept documents of each source: their lengths before truncation, and what is packed and trained."""
    kept = _by_slices(
        corpus.docs.select("source", "tokens", "drop_reason"),
        lambda some: some.filter(pl.col("drop_reason").is_null()).select(
            "source", "tokens", documents=pl.lit(1, pl.Int64)
        ),
        ["source", "tokens"],
    )
    lengths, counts = kept["tokens"].to_numpy(), kept["documents"].to_numpy()
    ends = np.searchsorted(kept["source"].to_numpy(), np.arange(len(names) + 1))
    source_of = corpus.docs["source"]
    packed = _by_slices(
        pieces.select("document", "length", "trained"),
        lambda some: some.select(
            pl.col("length", "trained").cast(pl.Int64), source=source_of.gather(some["document"])
        ),
        ["source"],
    )
    sums = {source: (length, trained) for source, length, trained in packed.rows()}
    out = []
    for number, name in enumerate(names):
        own = slice(*ends[number : number + 2])
        length, trained = sums.get(number, (0, 0))
        figures = SourceFigures(
            name=name,
            documents=int(counts[own].sum()),
            packed=length,
            trained=trained,
            trained_share=trained / length if length else 0.0,
            **counted_quantiles(lengths[own], counts[own]),
        )
        out.append(figures)
    return out


def _by_slices(
    frame: pl.DataFrame, made: Callable[[pl.DataFrame], pl.DataFrame], keys: list[str]
) -> pl.DataFrame:
    """Sums by the keys, in their order, of what is `made` of each slice: made of all rows at once it takes as
    much memory as they do."""
    slices = [frame] if frame.is_empty() else frame.iter_slices(SLICE)
    sums = [made(some).group_by(keys).agg(pl.all().sum()) for some in slices]
    return pl.concat(sums).group_by(keys).agg(pl.all().sum()).sort(keys)


def truncation_figures(documents: CostedDocuments, width: int = 1) -> list[Truncation]:
    """Documents and tokens that rows of other lengths would cut or leave out; `width` of `documents` are one
    of `documents.whole`.

    Truncation by turns cuts a little more than is said here.
    """
    total, out = int(documents.whole.sum()), []
    for capacity in sorted({*CAPACITIES, documents.capacity}):
        lost = longer = 0
        for low in range(0, len(documents.whole), SLICE):
            some = slice(low, low + SLICE)
            whole = documents.whole[some]
            at = np.flatnonzero(whole > capacity)
            tokens, split = whole[at], documents.split[some][at]
            cut = np.where(documents.uncut[some][at], tokens, np.where(split, 0, tokens - capacity))
            lost, longer = lost + int(cut.sum(dtype=np.int64)), longer + int(np.count_nonzero(~split))
        share = lost / total if total else 0.0
        out.append(Truncation(capacity=capacity, documents=width * longer, tokens=lost, share=share))
    return out


def longest_documents(corpus: Corpus, names: list[str]) -> list[LongDocument]:
    """The longest documents as they came, where they stand, and what became of them."""
    columns = ("doc_id", "source", "row", "tokens", "cut", "drop_reason")
    long = corpus.docs.filter(pl.col("tokens") >= pl.col("tokens").top_k(LONGEST).min())
    top = long.select(columns).sort("tokens", "doc_id", descending=[True, False]).head(LONGEST)
    return [
        LongDocument(
            doc_id=doc,
            source=names[source],
            row=row,
            tokens=tokens,
            fate=reason or ("shortened" if cut else "kept"),
        )
        for doc, source, row, tokens, cut, reason in top.rows()
        if tokens
    ]


def row_figures(plan: Plan, lengths: Lengths) -> list[RowClass]:
    """Rows by their free slots: how many have more than the class before, and at most `up_to`."""
    if not plan.rows:
        return []
    tokens = counted_in(plan.row_of_doc, plan.rows, lengths)
    free = (plan.capacity - tokens) / plan.capacity
    counts = np.diff(np.searchsorted(np.sort(free), FREE, side="right"), prepend=0)
    return [RowClass(up_to=up_to, rows=int(n)) for up_to, n in zip(FREE, counts, strict=True)]


def rank_figures(
    plan: Plan, lengths: Lengths, settings: PlanConfig, token_cost: int, ranks: int, seed: int
) -> Ranks | None:
    """How long `ranks` wait for the slowest of them, with rows shuffled and with rows dealt by cost.

    `step`: the work of each rank in a step that waits as much as the middle one, the slowest being 1. Without
    `token_cost` attention alone counts. None where there are fewer rows than ranks.
    """
    per_rank = settings.rows_per_step if settings.world_size else 1
    step = ranks * per_rank
    if ranks < 2 or plan.rows < step:
        return None
    costs = row_costs(lengths.astype(np.int32), plan.row_of_doc, linear=float(token_cost))
    dealt, _ = deal(costs, ranks, step, seed)
    return Ranks(
        ranks=ranks,
        rows_per_step=per_rank,
        token_cost=token_cost,
        asked=settings.world_size == ranks,
        shuffled=_waiting(costs[row_order(plan.rows, seed)], ranks, per_rank),
        dealt=_waiting(costs[dealt], ranks, per_rank),
    )


def _waiting(costs: Float64, ranks: int, per_rank: int) -> Waiting:
    """Ranks take rows in turn."""
    kept = len(costs) // (ranks * per_rank) * ranks * per_rank
    work = costs[:kept].reshape(-1, per_rank, ranks).sum(axis=1)
    slowest = work.max(axis=1)
    waits = 1 - work.mean(axis=1) / slowest
    middle = int(np.argsort(waits, kind="stable")[len(waits) // 2])
    return Waiting(
        idle_share=float(1 - work.sum() / (slowest.sum() * ranks)),
        step=[round(float(share), 4) for share in work[middle] / slowest[middle]],
    )
