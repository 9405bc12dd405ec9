"""`optimal`: column generation over the length histogram (Gilmore and Gomory 1961), with a proof of how good
it is.

The linear program picks how often each row pattern is used so that every length is covered; a knapsack over
the capacity finds patterns that would improve it, until none would. Its dual values prove a lower bound on
the rows (Farley 1990). Whole multiples of the solution become rows, and what is left is solved again with its
largest fractions rounded up, each time with `xfill` for the rest; the best of all these plans is kept. It
ends within a few rows of the bound.

Needs `highspy`. Where `xfill` already meets ceil(tokens / capacity) or L2, its plan is returned at once. More
than 1,024 distinct lengths are rounded up to at most 640 for the program, which costs about 0.05 % of the
rows; rows stay valid, and the bound is proven for the true lengths, by duals interpolated between the rounded
ones. The search ends after a fixed amount of work (iterations of the simplex method, cells of the knapsack),
so the plan does not depend on the machine, only on the version of HiGHS. A time limit far beyond that is the
last resort, and the plan says so where it struck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tokpack.arrays import Float64, Int32, Int64
from tokpack.frozen import frozen
from tokpack.stages.planners.bounds import ceil_bound, l2_bound
from tokpack.stages.planners.layout import (
    UNLIMITED,
    Histogram,
    histogram,
    rows_of_documents,
    strips_of_patterns,
)
from tokpack.stages.planners.program import Problem, Program, RowPatterns, completions, load_highspy
from tokpack.stages.planners.xfill import fill_rows, xfill

EXACT_SIZES, ROUNDED_SIZES = 1024, 640
ITERATIONS = 150_000
"""Of the simplex method, for finding patterns; half as many again for whole rows. 10 to 20 s."""
KNAPSACKS = 20_000_000_000
"""Cells of all knapsack tables together; about as long."""
TIME_LIMIT = 600.0
"""Seconds; never reached on a machine that is not stuck."""
COLUMNS = 400
"""Patterns added in one round of column generation."""
SMOOTHING = 0.7
"""Weight of the best proven duals against the program's own, which swing (Wentges 1997)."""
ONE = 1 << 40
"""Duals as integers: the knapsack and the bound are exact."""
LARGEST_PROOF = 1 << 31
"""Cells of the knapsack table up to which a bound is proven for lengths that were rounded."""


@dataclass
class ProvenBound:
    """The best bound so far and the integer duals that prove it."""

    values: Int64
    ratio: float = 0.0
    """Rows proven, as a fraction."""
    bound: int = 0
    best_row: int = ONE
    """Value of the most valuable row under `values`."""

    def try_duals(self, problem: Problem, values: Int64) -> Int32:
        """Keep `values` if they prove more; returns the knapsack's items, for patterns."""
        bound, value, item = problem.proven(values)
        best_row = int(value[-1, -1])
        ratio = float(problem.counts @ (values / best_row))
        if ratio > self.ratio:
            self.ratio, self.values, self.best_row = ratio, values, best_row
        self.bound = max(self.bound, bound)
        return item


def generate(problem: Problem, program: Program, columns: RowPatterns, known: int) -> ProvenBound:
    """Add patterns to program and `columns` until it is optimal or meets a proven bound (`known` is one)."""
    proof = ProvenBound(np.floor(problem.sizes / problem.capacity * ONE).astype(np.int64))
    for _ in range(max(10, KNAPSACKS // problem.cells)):
        if not program.solve() or math.ceil(program.rows() - 1e-6) <= max(proof.bound, known):
            break
        new = better_rows(problem, proof, program.duals())
        if len(new) == 0:
            break
        columns.extend(new)
        program.add(new)
    return proof


def better_rows(problem: Problem, proof: ProvenBound, duals: Float64) -> RowPatterns:
    """Patterns worth more than 1 row under `duals`; none when `duals` are optimal.

    Patterns are searched with duals between the program's and the best proven ones, and with the program's
    alone when that finds nothing.
    """
    smoothing = SMOOTHING
    while True:
        mixed = smoothing * (proof.values / proof.best_row) + (1 - smoothing) * duals
        item = proof.try_duals(problem, np.floor(mixed * ONE).astype(np.int64))
        start, size, copies, gains = completions(
            problem.sizes, item, problem.max_docs, duals, problem.capacity
        )
        if len(gains) or smoothing == 0:
            most = np.sort(np.argsort(-gains, kind="stable")[:COLUMNS])
            return RowPatterns(start, size, copies).take(most)
        smoothing = smoothing - 0.3 if smoothing > 0.3 else 0.0


def dive(problem: Problem, program: Program, columns: RowPatterns, enough: int) -> tuple[Int64, Int64]:
    """Whole rows from the program's solution: patterns (entries, times) over `problem.sizes`.

    Each round fixes some rows, fills the rest by `xfill` for a complete plan, and solves again for what the
    fixed rows leave. The plan with the fewest rows is returned; `enough` rows end the search.
    """
    left = problem.counts.copy()
    fixed: list[tuple[int, int]] = []  # column, times
    fewest, best = UNLIMITED, (0, np.empty((0, 3), np.int64), np.empty(0, np.int64))
    while True:
        taken = whole_rows(columns, left, program.usage())
        fixed += taken
        entries, times = rest_of(problem, left)
        rows = sum(count for _, count in fixed) + int(times.sum())
        if rows < fewest:
            fewest, best = rows, (len(fixed), entries, times)
        if rows <= enough or not left.any() or not taken:
            break
        program.lower(left)
        if not program.solve():
            break
    count, entries, times = best
    kept = np.array(fixed[:count], dtype=np.int64).reshape(-1, 2)
    used = columns.take(kept[:, 0])
    pattern = np.repeat(np.arange(count), np.diff(used.start))
    whole = np.stack((pattern, used.size, used.copies), axis=1)
    entries[:, 0] += count
    return np.concatenate((whole, entries)), np.concatenate((kept[:, 1], times))


def whole_rows(columns: RowPatterns, left: Int64, usage: Float64) -> list[tuple[int, int]]:
    """Take rows out of `left`: (column, times) of all usage rounded down, or of the largest fractions."""
    full = np.flatnonzero(usage > 1 - 1e-9)
    taken = [(int(j), take(columns, left, j, int(usage[j] + 1e-9))) for j in full]
    if not any(times for _, times in taken):
        largest = np.argsort(-usage, kind="stable")[: max(1, np.count_nonzero(usage > 1e-6) // 8)]
        largest = largest[: max(1, np.count_nonzero(usage[largest] > 0.5))]
        taken = [(int(j), take(columns, left, j, 1)) for j in largest]
    return [(column, times) for column, times in taken if times]


def rest_of(problem: Problem, left: Int64) -> tuple[Int64, Int64]:
    """Patterns of `xfill` for the documents `left`."""
    some = np.flatnonzero(left)[::-1]
    if len(some) == 0:
        return np.empty((0, 3), np.int64), np.empty(0, np.int64)
    sizes, most = problem.sizes[some], problem.max_docs or UNLIMITED
    entries, times = fill_rows(sizes, left[some], problem.capacity, most)
    entries[:, 1] = some[entries[:, 1]]
    return entries, times


def take(columns: RowPatterns, left: Int64, column: np.int64, times: int) -> int:
    """Take up to `times` rows of a column out of `left`: how many."""
    span = slice(columns.start[column], columns.start[column + 1])
    size, copies = columns.size[span], columns.copies[span]
    times = min(times, int((left[size] // copies).min()))
    left[size] -= times * copies
    return times


def rounded(documents: Histogram, capacity: int) -> tuple[Histogram, int]:
    """Lengths rounded up to a unit of several tokens where too many are distinct: (histogram, unit)."""
    if len(documents.sizes) <= EXACT_SIZES:
        return documents, 1
    unit = -(-len(documents.sizes) // ROUNDED_SIZES)
    while True:
        units = in_units(documents.sizes, unit, capacity)
        first = np.flatnonzero(np.diff(units, prepend=-1))
        if len(first) <= ROUNDED_SIZES:
            return Histogram(documents.order, units[first], np.add.reduceat(documents.counts, first)), unit
        unit += 1


def in_units(sizes: Int64, unit: int, capacity: int) -> Int64:
    """Rounded up; what fills a row alone still does, though capacity is rounded down."""
    return np.minimum(-(-sizes // unit), capacity // unit)


def problem_of(documents: Histogram, capacity: int, max_docs_per_row: int | None) -> Problem:
    fits = capacity // int(documents.sizes[-1])
    layers = max_docs_per_row if max_docs_per_row is not None and max_docs_per_row < fits else 0
    return Problem(documents.sizes[::-1].copy(), documents.counts[::-1].copy(), capacity, layers)


@frozen
class Solution:
    row_of_doc: Int32
    proven: int = 0
    """Rows proven necessary by the linear program; 0 where it was not needed."""
    note: str = ""
    """That the time limit struck, else empty."""


def solve(
    lengths: Int32,
    capacity: int,
    *,
    seed: int = 0,
    max_docs_per_row: int | None = None,
    time_limit: float = TIME_LIMIT,
) -> Solution:
    """Plan and proof. Raises UsageError without highspy."""
    highspy = load_highspy()
    quick = xfill(lengths, capacity, seed=seed, max_docs_per_row=max_docs_per_row)
    rows = int(quick.max()) + 1 if len(quick) else 0
    known = max(ceil_bound(lengths, capacity, max_docs_per_row), l2_bound(lengths, capacity))
    if rows <= known:
        return Solution(quick)

    exact = histogram(lengths, seed)
    documents, unit = rounded(exact, capacity)
    problem = problem_of(documents, capacity // unit, max_docs_per_row)
    last = len(problem.sizes) - 1  # the histogram's sizes fall, the problem's rise
    entries, times = fill_rows(
        documents.sizes, documents.counts, problem.capacity, problem.max_docs or UNLIMITED
    )
    start = np.searchsorted(entries[:, 0], np.arange(len(times) + 1))
    columns = RowPatterns(start, last - entries[:, 1], entries[:, 2])
    program = Program(highspy, problem.counts, ITERATIONS, time_limit)
    program.add(columns)
    proof = generate(problem, program, columns, known)
    program.allow(ITERATIONS // 2)
    entries, times = dive(problem, program, columns, max(known, proof.bound))
    note = f"stopped after {time_limit:.0f} s: another machine may plan otherwise" if program.late else ""
    proven = proof.bound
    if unit > 1:
        proven = proof_for(problem_of(exact, capacity, max_docs_per_row), problem.sizes * unit, proof.values)
    if int(times.sum()) >= rows:
        return Solution(quick, proven, note)
    entries[:, 1] = last - entries[:, 1]
    return Solution(rows_of_documents(documents, strips_of_patterns(entries, times)), proven, note)


def proof_for(whole: Problem, sizes: Int64, duals: Int64) -> int:
    """Rows proven for the true lengths by duals between those of rounded `sizes`; 0 where that takes long."""
    if whole.cells > LARGEST_PROOF:
        return 0
    return whole.proven(np.floor(np.interp(whole.sizes, sizes, duals)).astype(np.int64))[0]


def optimal(lengths: Int32, capacity: int, *, seed: int = 0, max_docs_per_row: int | None = None) -> Int32:
    """Column generation: `row_of_doc: int32[n]`. `solve` returns the bound too."""
    return solve(lengths, capacity, seed=seed, max_docs_per_row=max_docs_per_row).row_of_doc
