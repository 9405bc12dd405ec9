"""Parts of `optimal`: row patterns as columns, the linear program, the knapsack that finds patterns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokpack.arrays import Float64, Int32, Int64
from tokpack.errors import UsageError
from tokpack.stages.compiled import jit


@dataclass
class RowPatterns:
    """Row patterns by column: sizes `size[start[j]:start[j + 1]]` with `copies` documents each."""

    start: Int64 = field(default_factory=lambda: np.zeros(1, np.int64))
    size: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    copies: Int64 = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.start) - 1

    def extend(self, other: RowPatterns) -> None:
        self.start = np.concatenate((self.start, other.start[1:] + self.start[-1]))
        self.size = np.concatenate((self.size, other.size))
        self.copies = np.concatenate((self.copies, other.copies))

    def take(self, chosen: Int64) -> RowPatterns:
        widths = np.diff(self.start)[chosen]
        start = np.concatenate((np.zeros(1, np.int64), np.cumsum(widths)))
        places = np.arange(start[-1]) + np.repeat(self.start[chosen] - start[:-1], widths)
        return RowPatterns(start, self.size[places], self.copies[places])


def load_highspy() -> Any:
    try:
        import highspy
    except ImportError:
        raise UsageError(
            "planner 'optimal' needs highspy",
            where="--planner optimal",
            hint="pip install 'tokpack[optimal]'",
        ) from None
    return highspy


class Program:
    """min sum(x) with, for each size, sum(copies * x) >= documents; HiGHS keeps its basis between solves.

    `iterations` of the simplex method are the work that it may do in all, until `allow` gives more.
    """

    def __init__(self, highspy: Any, counts: Int64, iterations: int, seconds: float) -> None:
        # The public class prints a banner to stdout as it is made; its base does not.
        self.highs = getattr(highspy, "_Highs", highspy.Highs)()
        self.infinity = highspy.kHighsInf
        self.status = highspy.HighsModelStatus
        self.late = False
        """The time limit struck."""
        options = {
            "output_flag": False,
            "threads": 1,
            "presolve": "off",
            "solver": "simplex",
            "time_limit": seconds,
        }
        self.allow(iterations)
        for option, value in options.items():
            self.highs.setOptionValue(option, value)
        self.highs.setOptionValue("simplex_strategy", 4)  # primal: columns come in
        unbounded = np.full(len(counts), self.infinity)
        nothing = np.empty(0, np.int32)
        starts = np.zeros(len(counts), np.int32)
        self.highs.addRows(len(counts), counts.astype(float), unbounded, 0, starts, nothing, np.empty(0))

    def add(self, columns: RowPatterns) -> None:
        n, entries = len(columns), len(columns.size)
        cost, low, high = np.ones(n), np.zeros(n), np.full(n, self.infinity)
        starts, sizes = columns.start[:-1].astype(np.int32), columns.size.astype(np.int32)
        self.highs.addCols(n, cost, low, high, entries, starts, sizes, columns.copies.astype(float))

    def lower(self, left: Int64) -> None:
        """Only `left` documents of each size are still to be covered."""
        self.highs.setOptionValue("simplex_strategy", 1)  # dual: the basis stays dual feasible
        places = np.arange(len(left), dtype=np.int32)
        self.highs.changeRowsBounds(len(left), places, left.astype(float), np.full(len(left), self.infinity))

    def allow(self, iterations: int) -> None:
        self.left = iterations

    def solve(self) -> bool:
        """False when the work that was allowed is done, or the time limit struck."""
        self.highs.setOptionValue("simplex_iteration_limit", max(self.left, 0))
        self.highs.run()
        self.left -= int(self.highs.getInfo().simplex_iteration_count)
        status = self.highs.getModelStatus()
        self.late = self.late or bool(status == self.status.kTimeLimit)
        return bool(status == self.status.kOptimal)

    def rows(self) -> float:
        return float(self.highs.getInfo().objective_function_value)

    def duals(self) -> Float64:
        duals: Float64 = np.clip(np.array(self.highs.getSolution().row_dual), 0.0, 1.0)
        return duals

    def usage(self) -> Float64:
        usage: Float64 = np.array(self.highs.getSolution().col_value)
        return usage


@jit
def knapsack(sizes: Int64, values: Int64, capacity: int, max_docs: int) -> tuple[Int64, Int32]:
    """Best value for every space: (value, item) of shape [layers + 1, capacity + 1], `sizes` rising.

    `max_docs` is the most documents a row may hold; 0 for no limit, then there is one layer. item -1: nothing
    goes into the last token of this space.
    """
    depth = max(max_docs, 1)
    value = np.zeros((depth + 1, capacity + 1), np.int64)
    item = np.full((depth + 1, capacity + 1), -1, np.int32)
    for layer in range(1, depth + 1):
        before = value[layer - 1] if max_docs > 0 else value[layer]
        for space in range(1, capacity + 1):
            best, chosen = value[layer, space - 1], -1
            for i in range(len(sizes)):
                if sizes[i] > space:
                    break
                candidate = before[space - sizes[i]] + values[i]
                if candidate > best:
                    best, chosen = candidate, i
            value[layer, space], item[layer, space] = best, chosen
    return value, item


@jit
def completions(
    sizes: Int64, item: Int32, max_docs: int, duals: Float64, capacity: int
) -> tuple[Int64, Int64, Int64, Float64]:
    """For each size the best row that holds it: (start, size, copies, gain), only those of gain over 0."""
    start, size, copies, gains = [np.int64(0)], [np.int64(0)], [np.int64(0)], [0.0]
    in_row = np.zeros(len(sizes), np.int64)
    touched = np.empty(len(sizes) + 1, np.int64)
    for first in range(len(sizes)):
        space, layer = capacity, max(max_docs, 1)
        pick, distinct, value = first, 0, 0.0
        while pick >= 0:
            if in_row[pick] == 0:
                touched[distinct] = pick
                distinct += 1
            in_row[pick] += 1
            value += duals[pick]
            space -= sizes[pick]
            layer -= 1 if max_docs > 0 else 0
            while space > 0 and item[layer, space] < 0:
                space -= 1
            pick = int(item[layer, space]) if space > 0 else -1
        for i in touched[:distinct]:
            if value > 1 + 1e-7:
                size.append(i)
                copies.append(in_row[i])
            in_row[i] = 0
        if value > 1 + 1e-7:
            start.append(np.int64(len(size) - 1))
            gains.append(value - 1)
    return np.array(start), np.array(size)[1:], np.array(copies)[1:], np.array(gains)[1:]


@dataclass
class Problem:
    """A histogram with sizes rising, and what bounds its rows."""

    sizes: Int64
    counts: Int64
    capacity: int
    max_docs: int
    """Most documents in a row where that limit binds, else 0."""

    @property
    def cells(self) -> int:
        """Of the knapsack's table, and so its time."""
        return len(self.sizes) * self.capacity * max(self.max_docs, 1)

    def proven(self, values: Int64) -> tuple[int, Int64, Int32]:
        """(Rows that integer duals prove: their sum / the best pattern's value; the knapsack's tables.)"""
        value, item = knapsack(self.sizes, values, self.capacity, self.max_docs)
        total = sum(count * dual for count, dual in zip(self.counts.tolist(), values.tolist(), strict=True))
        best = int(value[-1, -1])
        return -(-total // best) if best else 0, value, item
