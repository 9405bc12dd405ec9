"""Lower bounds on the number of rows: how good a plan is, without knowing the best one."""

from __future__ import annotations

import numpy as np

from tokpack.arrays import Int32, Int64


def ceil_bound(lengths: Int32, capacity: int, max_docs_per_row: int | None = None) -> int:
    """ceil(tokens / capacity), or ceil(documents / max_docs_per_row) where that is more."""
    by_tokens = -(-int(lengths.sum(dtype=np.int64)) // capacity)
    return max(by_tokens, -(-len(lengths) // max_docs_per_row)) if max_docs_per_row else by_tokens


def l2_bound(lengths: Int32, capacity: int) -> int:
    """Martello and Toth's L2 (1990), never below ceil(tokens / capacity). Lengths in 1..capacity.

    For a threshold t: documents over half the capacity need a row each; those over capacity - t share it with
    nothing of length t or more; what the others leave free must hold the documents from t to half the
    capacity.

        L(t) = |over half| + max(0, ceil((tokens in [t, half] - free space beside (half, capacity - t]) /
        capacity))

    The best t is 0 or a length; all are tried at once on the histogram.
    """
    if len(lengths) == 0:
        return 0
    sizes, counts = np.unique(lengths, return_counts=True)
    sizes = sizes.astype(np.int64)
    documents = running(counts)
    tokens = running(counts * sizes)
    half = int(np.searchsorted(sizes, capacity // 2, side="right"))  # sizes[:half] are at most half
    thresholds = np.concatenate(([0], sizes[:half]))
    from_threshold = np.searchsorted(sizes, thresholds, side="left")
    shared = np.searchsorted(
        sizes, capacity - thresholds, side="right"
    )  # sizes[half:shared] may have company
    free = (documents[shared] - documents[half]) * capacity - (tokens[shared] - tokens[half])
    beside = tokens[half] - tokens[from_threshold] - free
    extra = np.maximum(0, -(-beside // capacity))
    return int(documents[-1] - documents[half] + extra.max())


def running(values: Int64) -> Int64:
    """Running sum with a zero in front: sum(values[a:b]) == running[b] - running[a]."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)))
