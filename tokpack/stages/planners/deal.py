"""The order of packed rows: shuffled, or dealt so that ranks which wait for each other do equal work.

Rows are equal in tokens, not in attention: one document of 8192 costs 64 times the attention of 64 short
ones. In data-parallel training the slowest rank sets the pace of a step, so rows of like cost go to the ranks
together.
"""

from __future__ import annotations

import numpy as np

from tokpack.arrays import Float64, Int32, Int64
from tokpack.errors import UsageError
from tokpack.stages.planners.even import even_out
from tokpack.stages.planners.layout import noise

LONGEST_RUN = 7
"""Neighboring hands that may enter a step together: their spreads cancel out, at some cost in mixing."""


def row_costs(seq_lengths: Int32, row_of_doc: Int32, *, linear: float) -> Float64:
    """Cost of each row: sum(len^2) + linear * sum(len), in what a pair of tokens costs in attention.

    Documents in any order. `linear`: what a token costs in weights; 0 counts attention alone.
    """
    lengths = seq_lengths.astype(np.float64)
    return np.bincount(row_of_doc, weights=lengths * lengths + linear * lengths).astype(np.float64)


def row_order(rows: int, seed: int) -> Int64:
    """Seeded shuffle of 0..rows-1, the same with every NumPy."""
    return np.argsort(noise(rows, seed, "rows"), kind="stable")


def deal(costs: Float64, world_size: int, rows_per_step: int, seed: int) -> tuple[Int64, Int64]:
    """Row order in which ranks do equal work: (order, leftover).

    `rows_per_step` counts the rows of one optimizer step over all ranks and accumulation steps; every rank
    gets `rows_per_step / world_size` of them. The order is read as data loaders read it: a row for rank 0,
    one for rank 1, and so on.

    Rows sorted by cost are cut into hands of `world_size` neighbors, one row for each rank. A step is made
    of a few runs of neighboring hands drawn by seed, so it mixes cheap and dear rows and no stage of
    training sees only long documents; within it the dearest row of each hand goes to the rank with the least
    work so far. Then rows change places within and across steps where that saves waiting (`even.py`); with
    one row a rank and step the sorted hands themselves are the best there is.

    `order` holds full steps alone. `leftover`, fewer than `rows_per_step` rows drawn at random, is the
    caller's to train on as a short last step or to leave out, and to report.

    Raises UsageError when `rows_per_step` does not divide among the ranks.
    """
    check_step(world_size, rows_per_step)
    shuffled = row_order(len(costs), seed)
    kept = len(costs) // rows_per_step * rows_per_step
    order, leftover = shuffled[:kept], shuffled[kept:]
    hands_per_step = rows_per_step // world_size
    run = max(size for size in range(1, LONGEST_RUN + 1) if hands_per_step % size == 0)
    runs = order[np.argsort(costs[order], kind="stable")].reshape(-1, run * world_size)
    runs = runs[np.argsort(noise(len(runs), seed, "runs"), kind="stable")]
    steps = even_out(seat(runs.reshape(-1, hands_per_step, world_size), costs), costs)
    return steps.reshape(-1), leftover


def deal_within(costs: Float64, world_size: int, rows_per_step: int) -> tuple[Int64, Int64]:
    """The same where it is settled which rows a step has: step s has those from s * rows_per_step on."""
    check_step(world_size, rows_per_step)
    kept = len(costs) // rows_per_step * rows_per_step
    rows = np.arange(kept).reshape(-1, rows_per_step)
    rows = np.take_along_axis(rows, np.argsort(costs[rows], axis=1, kind="stable"), axis=1)
    steps = seat(rows.reshape(len(rows), -1, world_size), costs)
    return steps.reshape(-1), np.arange(kept, len(costs))


def seat(steps: Int64, costs: Float64) -> Int64:
    """Order the rows of each hand over the ranks (`steps: int64[steps, hands, ranks]`) so that sums are even.

    Hands with the widest spread first, each hand's dearest row to the rank with the least cost so far.
    """
    of_row = costs[steps]
    widest_first = np.argsort(of_row.min(axis=2) - of_row.max(axis=2), axis=1, kind="stable")
    steps = np.take_along_axis(steps, widest_first[:, :, None], axis=1)
    seated = np.empty_like(steps)
    work = np.zeros((steps.shape[0], steps.shape[2]))
    for hand in range(steps.shape[1]):
        rows = steps[:, hand]
        dearest_first = np.argsort(-costs[rows], axis=1, kind="stable")
        rows = np.take_along_axis(rows, dearest_first, axis=1)
        idlest_first = np.argsort(work, axis=1, kind="stable")
        np.put_along_axis(seated[:, hand], idlest_first, rows, axis=1)
        work += costs[seated[:, hand]]
    return seated


def idle_share(costs_in_order: Float64, world_size: int, rows_per_step: int) -> float:
    """Share of all ranks' time spent waiting for the slowest rank at the end of each step, 0 to 1.

    A rank's time in a step is the sum of its rows' costs; rows after the last full step are not counted.
    Ranks take rows as in `deal`.
    """
    check_step(world_size, rows_per_step)
    kept = len(costs_in_order) // rows_per_step * rows_per_step
    if kept == 0:
        return 0.0
    busy = costs_in_order[:kept].reshape(-1, rows_per_step // world_size, world_size).sum(axis=1)
    wall = float(busy.max(axis=1).sum()) * world_size
    return 1.0 - float(busy.sum()) / wall if wall > 0 else 0.0


def check_step(world_size: int, rows_per_step: int) -> None:
    if min(world_size, rows_per_step) < 1 or rows_per_step % world_size:
        raise UsageError(
            f"{rows_per_step} rows a step do not divide among {world_size} ranks",
            where=f"rows_per_step={rows_per_step}",
            hint=f"use a multiple of {max(1, world_size)}",
        )
