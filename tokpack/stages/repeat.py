"""Repeat: sources that are packed more than once, for a mixture of more and less of each.

    repeat = 2.5    every document twice, and about half of them, drawn by their hash, a third time

How often a document comes is known before anything is selected, so a budget counts every copy. Copies are
made of what is kept, before the plan. Copy 0 is the document; the others come after all documents, in input
order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack.arrays import Int32
from tokpack.schema import COPIES
from tokpack.stages.dedup import Hashes, draw

SALT = 0x5EED
"""Apart from the draw of the hold-out."""


def copies_of(hashes: Hashes, source: npt.NDArray[np.integer[Any]], repeat: list[float], seed: int) -> Int32:
    """How often each document is packed: int32[documents]. `repeat`: one a source."""
    wanted = np.array(repeat)[source]
    whole = np.floor(wanted)
    copies: Int32 = (whole + draw(hashes, wanted - whole, seed ^ SALT)).astype(np.int32)
    return copies


def with_copies(pieces: pl.DataFrame, copies: Int32) -> pl.DataFrame:
    """All pieces, then their first copies, and so on, numbered in the column `copy`.

    `pieces["document"]` is the position in `copies`.
    """
    times = copies[pieces["document"].to_numpy()]
    rows = [np.flatnonzero(times > copy) for copy in range(int(times.max(initial=1)))]
    copy = np.repeat(np.arange(len(rows), dtype=np.int32), [len(part) for part in rows])
    return pieces[np.concatenate(rows)].with_columns(copy=copy)


def times_of(documents: pl.DataFrame) -> Int32:
    """How often each document is packed, or would be if it were kept."""
    if COPIES not in documents.columns:
        return np.ones(len(documents), np.int32)
    return documents[COPIES].to_numpy()


def each_copy(documents: pl.DataFrame, width: int = 1) -> pl.DataFrame:
    """Every document as often as it is packed, or would be if it were kept; `width` documents together."""
    if COPIES not in documents.columns:
        return documents
    first = np.arange(0, len(documents), width)
    groups = np.repeat(first, times_of(documents)[::width])
    return documents[(groups[:, None] + np.arange(width)).ravel()]
