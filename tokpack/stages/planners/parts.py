"""Parts: rows that draw from one part of the corpus each, so that who writes them reads one part at a time.

The corpus is cut, in input order, into ZONES of equal tokens, each zone into as many stretches as there are
parts; of each zone a part has one stretch, drawn by seed. So a part lies in ZONES places and holds some of
each stretch of the input; parts differ by the documents that lie across a cut.

    zone 1          zone 2                  3 parts: part 0 = the stretches a and f, part 1 = c and d, ...
    |-a-|-b-|-c-|   |-d-|-e-|-f-|

Where the cuts are depends on documents and their tokens alone, not on blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tokpack.arrays import Int32, Int64
from tokpack.frozen import frozen
from tokpack.stages.planners.layout import noise

ZONES = 16


@frozen
class Parts:
    of_doc: Int32
    """Part of each document."""
    count: int

    def of(self, item_of_doc: Int64) -> Parts:
        """The same of groups of documents: `item_of_doc` numbers them in order of their first document."""
        return Parts(self.of_doc[np.unique(item_of_doc, return_index=True)[1]], self.count)


PlanPart = Callable[[Int32], npt.NDArray[Any]]
"""Lengths of documents -> the row of each, from 0 without gaps."""


@frozen(kw_only=True)
class Parted:
    """Rows that draw from one part each."""

    parts: int
    fewest_tokens: int
    most_tokens: int
    """Of a part."""
    rows_undivided: int
    """That the same planner makes of the whole corpus; 0 where it was not asked."""


def parts_of(number: Int64, lengths: Int32, parts: int, seed: int) -> Parts | None:
    """The part of each piece; None for one part. Pieces of one `number`, of a document or a pair, stay
    together, copies as well; numbers rise with the place in the corpus."""
    if parts == 1:
        return None
    _, item = np.unique(number, return_inverse=True)
    tokens = np.bincount(item, weights=lengths)
    middles = (np.cumsum(tokens) - tokens / 2) / max(tokens.sum(), 1)
    stretch = np.minimum((middles * (ZONES * parts)).astype(np.int64), ZONES * parts - 1)
    drawn = np.argsort(noise(ZONES * parts, seed, "parts").reshape(ZONES, parts), axis=1, kind="stable")
    return Parts(drawn.reshape(-1)[stretch][item].astype(np.int32), parts)


def rows_apart(lengths: Int32, parts: Parts, plan_part: PlanPart) -> tuple[Int32, list[int]]:
    """(row of each document, rows of each part): each part planned by itself, its rows after those before."""
    row_of_doc = np.empty(len(lengths), np.int32)
    rows: list[int] = []
    for number in range(parts.count):
        mine = np.flatnonzero(parts.of_doc == number)
        found = np.asarray(plan_part(lengths[mine])) if len(mine) else np.empty(0, np.int32)
        row_of_doc[mine] = sum(rows) + found.astype(np.int32)
        rows.append(int(found.max()) + 1 if len(found) else 0)
    return row_of_doc, rows


def part_figures(lengths: Int32, parts: Parts, rows_undivided: int) -> Parted:
    tokens = np.bincount(parts.of_doc, weights=lengths, minlength=parts.count)
    return Parted(
        parts=parts.count,
        fewest_tokens=int(tokens.min()),
        most_tokens=int(tokens.max()),
        rows_undivided=rows_undivided,
    )
