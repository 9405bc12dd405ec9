"""Rows in steps: every optimizer step holds its share of each source, within one document.

Each source is laid out over the time from 0 to 1, its documents in seeded order, each as long as its tokens.
A step is a stretch of that time: it takes the documents whose middle lies in it, so of a source's tokens it
takes the stretch's share, at most half a document more or less at either end. Stretches follow each other,
each as long as its documents fit the rows of a step.

    source a  |--1--|--2--|--3--|--4--|      step 1 = documents 1, 2 of a and 1 of b
    source b  |----1----|----2--------|      step 2 = documents 3, 4 of a and 2 of b
              0          .5           1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tokpack.arrays import Int32, Int64
from tokpack.frozen import frozen
from tokpack.stages.planners.layout import noise

TRIES = 8
"""Plans of one step, at most."""
ENOUGH = 0.999
"""Of the slots of a step's rows: no longer stretch is looked for."""

PlanStep = Callable[[Int32], npt.NDArray[Any]]
"""Lengths of documents -> the row of each, from 0 without gaps."""


@frozen
class Mix:
    """What steps are made by. Arrays of one entry a document."""

    source: Int32
    counted: Int64
    """Tokens of the document, in which shares are counted: all, or those with a label."""
    rows_per_step: int
    """Over all ranks."""

    def of(self, item_of_doc: Int64) -> Mix:
        """The same of groups of documents: `item_of_doc` numbers them in order of their first document."""
        first = np.unique(item_of_doc, return_index=True)[1]
        counted = np.bincount(item_of_doc, weights=self.counted).astype(np.int64)
        return Mix(self.source[first], counted, self.rows_per_step)


@frozen(kw_only=True)
class Mixed:
    """How rows were made in steps."""

    rows_per_step: int
    """Over all ranks."""
    steps: int
    """Full ones."""
    leftover_rows: int
    """Of the last step, which is not full; 0 without one."""
    largest_error: float
    """The most that a source's share of the tokens of a full step differs from its share of all tokens."""


def mixed_rows(
    lengths: Int32, mix: Mix, capacity: int, plan_step: PlanStep, max_docs_per_row: int | None, seed: int
) -> Int32:
    """Row of each document, int32[n]: step s has the rows from s * rows_per_step on, the last one fewer."""
    row_of_doc = np.empty(len(lengths), np.int32)
    order = by_time(mix, seed)
    tokens = np.concatenate([[0], np.cumsum(lengths[order], dtype=np.int64)])
    start = first_row = 0
    while start < len(order):
        step = _Step(lengths[order[start:]], tokens[start:] - tokens[start], mix.rows_per_step, capacity)
        rows = step.rows(plan_step, max_docs_per_row)
        row_of_doc[order[start : start + len(rows)]] = first_row + rows
        start, first_row = start + len(rows), first_row + mix.rows_per_step
    return row_of_doc


def by_time(mix: Mix, seed: int) -> Int64:
    """All documents in order of their middles; of equals the earlier source first."""
    source, counted = mix.source, mix.counted
    order = np.lexsort((noise(len(source), seed, "mix"), source))
    sizes = np.bincount(source)
    begins = np.cumsum(sizes) - sizes
    totals = np.bincount(source, weights=counted)
    if (empty := (totals == 0)[source]).any():  # nothing to count: its documents are equal
        counted = np.where(empty, 1, counted)
        totals = np.bincount(source, weights=counted)
    ends = np.cumsum(counted[order])
    before = np.concatenate([[0], ends])[begins][source[order]]
    middles = (ends - before - counted[order] / 2) / totals[source[order]]
    return order[np.lexsort((source[order], middles))]


class _Step:
    """The documents that are left, in order of time, of which the first are to fill the rows of a step."""

    def __init__(self, lengths: Int32, tokens: Int64, rows: int, capacity: int) -> None:
        self._lengths, self._tokens = lengths, tokens
        self._rows, self._capacity = rows, capacity

    def rows(self, plan_step: PlanStep, max_docs_per_row: int | None) -> Int32:
        """Row of each of the first documents, as many as were found to fit."""
        few, many = min(self._rows, len(self._lengths)), self._within(self._rows * self._capacity)
        if max_docs_per_row is not None:
            many = min(many, self._rows * max_docs_per_row)
        best = np.arange(few, dtype=np.int32)  # one in each row always fits
        tried = many
        for _ in range(TRIES):
            if tried <= few:
                break
            found = plan_step(self._lengths[:tried]).astype(np.int32)
            over = found >= self._rows
            if not over.any():
                few, best = tried, found
                if tried == many or self._tokens[few] >= ENOUGH * self._rows * self._capacity:
                    break
            else:
                many = tried - 1
            too_much = int(self._lengths[:tried][over].sum())
            guess = self._within(int(self._tokens[tried]) - too_much)
            tried = guess if few < guess <= many else (few + many + 1) // 2
        return best if few == len(self._lengths) else self._all_filled(best)

    def _within(self, tokens: int) -> int:
        """How many of the first documents have no more tokens."""
        return int(np.searchsorted(self._tokens, tokens, "right")) - 1

    def _all_filled(self, rows: Int32) -> Int32:
        """No row of a full step is empty: the last documents of rows with several move into those."""
        used = int(rows.max()) + 1
        if used == self._rows:
            return rows
        rows = rows.copy()
        places = np.argsort(rows, kind="stable")
        further = places[1:][rows[places[1:]] == rows[places[:-1]]]
        rows[further[: self._rows - used]] = np.arange(used, self._rows, dtype=np.int32)
        return rows


def mix_figures(mix: Mix, row_of_doc: Int32) -> Mixed:
    """What came of it; `row_of_doc` as `mixed_rows` numbers rows."""
    rows = int(row_of_doc.max()) + 1 if len(row_of_doc) else 0
    steps, leftover = divmod(rows, mix.rows_per_step)
    sources = int(mix.source.max()) + 1 if len(mix.source) else 0
    place = row_of_doc.astype(np.int64) // mix.rows_per_step * sources + mix.source
    counted = np.bincount(place, weights=mix.counted, minlength=(steps + 1) * sources)
    by_step = counted.reshape(-1, sources)[:steps] if sources else np.zeros((0, 0))
    share = by_step / np.maximum(by_step.sum(axis=1, keepdims=True), 1)
    whole = np.bincount(mix.source, weights=mix.counted, minlength=sources)
    error = np.abs(share - whole / max(whole.sum(), 1)).max(initial=0.0)
    return Mixed(
        rows_per_step=mix.rows_per_step,
        steps=steps,
        leftover_rows=leftover,
        largest_error=round(float(error), 6),
    )
