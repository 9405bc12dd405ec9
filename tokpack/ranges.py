"""Copy many ranges of flat arrays at once: the one way tokens move."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tokpack.arrays import Int64

BLOCK = 1 << 18


def offsets_of(lengths: npt.NDArray[np.integer | np.bool_]) -> Int64:
    """[3, 2] -> [0, 3, 5]"""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def counted_in(
    at: npt.NDArray[np.integer], minlength: int, weights: npt.NDArray[np.integer] | None = None
) -> Int64:
    """`np.bincount` in whole numbers, in blocks: without a copy of all in 64 bits."""
    counts = np.zeros(minlength, np.int64)
    for low in range(0, len(at), BLOCK):
        block = slice(low, low + BLOCK)
        np.add.at(counts, at[block], 1 if weights is None else weights[block])
    return counts


def range_indices(starts: Int64, lengths: npt.NDArray[np.integer]) -> Int64:
    """Positions of all ranges one after another: starts [7, 2], lengths [2, 3] -> [7, 8, 2, 3, 4]"""
    ends = offsets_of(lengths)
    return np.repeat(starts - ends[:-1], lengths) + np.arange(ends[-1])


def copy_ranges(
    flat: npt.NDArray[Any], starts: Int64, lengths: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[Any]:
    """The ranges of `flat` one after another; neighbors are copied together.

    Meant for ranges mostly in order with few gaps: one slice a gap, against 8 bytes of index a token.
    """
    if not len(starts):
        return flat[:0]
    ends = starts + lengths
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    firsts, lasts = starts[np.append(0, breaks)].tolist(), ends[np.append(breaks - 1, -1)].tolist()
    return np.concatenate([flat[first:last] for first, last in zip(firsts, lasts, strict=True)])
