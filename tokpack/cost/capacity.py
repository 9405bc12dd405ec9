"""What each row capacity costs: rows, fill, tokens cut and FLOPs, and which one to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from tokpack.arrays import Int64
from tokpack.cost.flops import flops
from tokpack.cost.method import Method
from tokpack.cost.model_shape import ModelShape
from tokpack.errors import UsageError
from tokpack.frozen import frozen

CAPACITIES: Final = (512, 1024, 2048, 4096, 8192, 16384, 32768)
MAX_TRUNCATED: Final = 0.005
"""Share of the tokens a recommended capacity may cut. Assumed."""
NEAR_BEST: Final = 1.01
"""Slots within this factor of the fewest count as equal; the smaller capacity wins."""


@frozen(kw_only=True)
class CapacityPoint:
    """One capacity."""

    capacity: int
    rows: int
    fill: float
    truncated: int
    """Tokens beyond capacity, and of documents left out for it, but not of those kept in pieces."""
    truncated_documents: int
    flops: float
    """Of one epoch, without gradient checkpointing."""


@frozen(kw_only=True)
class CapacityCurve:
    """The points in ascending capacity, the recommended capacity, and why."""

    points: tuple[CapacityPoint, ...]
    recommended: int
    reason: str


def fit_lengths(
    lengths: ArrayLike,
    capacity: int,
    split: ArrayLike | None = None,
    uncut: ArrayLike | None = None,
) -> Int64:
    """Lengths of what is packed in rows of `capacity`: documents cut to it, those marked in `split` (bool[n])
    in pieces of it, longest pieces first, and those marked in `uncut` whole or not at all."""
    array = np.asarray(lengths, dtype=np.int64)
    marked = np.zeros(array.size, bool) if split is None else np.asarray(split, dtype=bool)
    if uncut is not None:
        kept = ~(np.asarray(uncut, dtype=bool) & (array > capacity))
        array, marked = array[kept], marked[kept]
    whole, rest = np.divmod(array[marked], capacity)
    pieces = np.concatenate([np.full(int(whole.sum()), capacity, dtype=np.int64), rest[rest > 0]])
    return np.concatenate([np.minimum(array[~marked], capacity), pieces])


def capacity_curve(
    lengths: ArrayLike,
    rows_for: Callable[[int], int],
    shape: ModelShape,
    *,
    capacities: Sequence[int] = CAPACITIES,
    method: Method | None = None,
    max_tokens: int | None = None,
    split: ArrayLike | None = None,
    uncut: ArrayLike | None = None,
) -> CapacityCurve:
    """Plan every capacity and pick one. `rows_for(capacity)` plans `fit_lengths` of the same documents.

    FLOPs are those of the tokens: rows are flattened, free slots cost nothing.

    Recommended: of the capacities that fit in memory (`max_tokens`, from `fits`) and cut at most
    `MAX_TRUNCATED` of the tokens, the smallest whose slots are within 1 % of the fewest: smaller rows mean
    more optimizer steps and less memory. When all cut too much, the largest that fits.
    """
    array = np.asarray(lengths, dtype=np.int64)
    if not array.size or not capacities:
        raise UsageError("no lengths or no capacities to compare", where="capacity curve")
    total = int(array.sum())
    cuttable = np.ones(array.size, dtype=bool) if split is None else ~np.asarray(split, dtype=bool)
    points = []
    for capacity in sorted(set(capacities)):
        rows, cut = rows_for(capacity), fit_lengths(array, capacity, split, uncut)
        slots = rows * capacity
        points.append(
            CapacityPoint(
                capacity=capacity,
                rows=rows,
                fill=int(cut.sum()) / slots if slots else 0.0,
                truncated=total - int(cut.sum()),
                truncated_documents=int((cuttable & (array > capacity)).sum()),
                flops=flops(shape, cut, method=method, micro_batches=rows).total,
            )
        )
    recommended, reason = _choose(points, total, max_tokens)
    return CapacityCurve(points=tuple(points), recommended=recommended, reason=reason)


def _choose(points: Sequence[CapacityPoint], total: int, max_tokens: int | None) -> tuple[int, str]:
    fitting = [p for p in points if max_tokens is None or p.capacity <= max_tokens]
    if not fitting:
        return points[0].capacity, f"the smallest; none fits in memory, which holds {max_tokens} tokens"
    whole = [p for p in fitting if p.truncated <= MAX_TRUNCATED * total]
    if not whole:
        best = fitting[-1]
        return (
            best.capacity,
            f"the largest that fits; it still cuts {best.truncated / total:.1%} of the tokens",
        )
    fewest = min(p.rows * p.capacity for p in whole)
    best = next(p for p in whole if p.rows * p.capacity <= NEAR_BEST * fewest)
    return best.capacity, (
        f"the smallest that cuts at most {MAX_TRUNCATED:.1%} of the tokens (it cuts "
        f"{best.truncated / total:.2%}) within 1 % of the fewest slots (fill {best.fill:.1%})"
    )
