"""Even out the work of ranks within steps by exchanging rows, after they were dealt.

A step takes as long as its dearest rank: `wall` is the sum over steps of that. First within each step, many
steps at once: a row of the dearest rank changes places with another rank's where that lowers the pair's
maximum the most. Then across steps, the worst step first: a row of its dearest or idlest rank changes places
with a row of another step where that lowers `wall` the most. Costs are compared as they are, no quotient is
taken: with integral costs every machine comes to the same exchanges.
"""

from __future__ import annotations

import numpy as np

from tokpack.arrays import Float64, Int64

ROUNDS = 4
"""Exchanges within a step: at most this many for each rank."""
ACROSS = 300
"""Exchanges across steps, at most."""
AT_ONCE = 1 << 18
"""Exchanges weighed at once: bounds memory, and how many other steps are looked at for the worst one."""
ENOUGH = 2000
"""Waiting below 1 / ENOUGH of all work is left as it is."""


def even_out(steps: Int64, costs: Float64) -> Int64:
    """The same rows, better seated: `steps: int64[steps, hands, ranks]` holds places in `costs`."""
    count, hands, ranks = steps.shape
    if count == 0 or hands == 1 or ranks == 1:
        return steps  # one row each, sorted by cost: nothing is better
    steps = steps.copy()
    part = max(1, AT_ONCE // (hands * hands * ranks))
    work = costs[steps].sum(axis=1)
    uneven = np.flatnonzero(ENOUGH * waits(work) > work.sum(axis=1))
    for first in range(0, len(uneven), part):
        some = steps[uneven[first : first + part]]
        for _ in range(ROUNDS * ranks):
            if not exchange_within(some, costs):
                break
        steps[uneven[first : first + part]] = some
    exchange_across(steps, costs, part)
    return steps


def waits(work: Float64) -> Float64:
    """Work that the other ranks could do while they wait for the dearest: `work: float64[..., ranks]`."""
    result: Float64 = work.shape[-1] * work.max(axis=-1) - work.sum(axis=-1)
    return result


def exchange_within(steps: Int64, costs: Float64) -> bool:
    """The best exchange of each step's dearest rank, in place; false when no step has one."""
    count, hands, ranks = steps.shape
    every = np.arange(count)
    of_row = costs[steps]
    work = of_row.sum(axis=1)
    dearest = work.argmax(axis=1)
    most = work[every, dearest]
    moved = of_row[every, :, dearest][:, :, None, None] - of_row[:, None]  # [step, its hand, hand, rank]
    higher = np.maximum(most[:, None, None, None] - moved, work[:, None, None, :] + moved)
    higher[every, :, :, dearest] = np.inf
    best = higher.reshape(count, -1).argmin(axis=1)
    better = np.flatnonzero(higher.reshape(count, -1)[every, best] < most)
    hand, other_hand, other = np.unravel_index(best[better], (hands, hands, ranks))
    mine, theirs = (better, hand, dearest[better]), (better, other_hand, other)
    steps[mine], steps[theirs] = steps[theirs], steps[mine]
    return len(better) > 0


def exchange_across(steps: Int64, costs: Float64, partners: int) -> None:
    """Exchanges between the step that waits most and up to `partners` others, in place, until waiting is
    small."""
    count = len(steps)
    chosen = np.arange(0, count, -(-count // partners))
    of_row = costs[steps]
    work = of_row.sum(axis=1)
    waiting = waits(work)
    total, spent = float(work.sum()), np.zeros(count, dtype=bool)
    for _ in range(ACROSS):
        if ENOUGH * waiting.sum() <= total or spent.all():
            break
        worst = int(np.where(spent, -1.0, waiting).argmax())
        found = best_exchange(of_row, work, worst, chosen)
        if found is None:
            spent[worst] = True
            continue
        mine, theirs = found
        for array in (steps, of_row):
            array[mine], array[theirs] = array[theirs], array[mine]
        for step in (mine[0], theirs[0]):
            work[step] = of_row[step].sum(axis=0)
            waiting[step] = waits(work[step])
        spent[theirs[0]] = False


Place = tuple[int, int, int]
"""Step, hand, rank."""


def best_exchange(of_row: Float64, work: Float64, worst: int, chosen: Int64) -> tuple[Place, Place] | None:
    """The exchange of a row of step `worst` with one of the steps `chosen` that lowers `wall` the most."""
    others = without_each(work[chosen])
    mine_without = without_each(work[worst][None])[0]
    now = work[worst].max() + work[chosen].max(axis=1)
    best, found = 0.0, None
    for rank in (int(work[worst].argmax()), int(work[worst].argmin())):
        moved = of_row[worst, :, rank][:, None, None, None] - of_row[chosen]  # [its hand, step, hand, rank]
        here = np.maximum(mine_without[rank], work[worst, rank] - moved)
        there = np.maximum(others[:, None, :], work[chosen][:, None, :] + moved)
        change = here + there - now[:, None, None]
        change[:, chosen == worst] = 0.0
        place = int(change.argmin())
        hand, step, other_hand, other = (int(i) for i in np.unravel_index(place, change.shape))
        if change[hand, step, other_hand, other] < best:
            best = float(change[hand, step, other_hand, other])
            found = (worst, hand, rank), (int(chosen[step]), other_hand, other)
    return found


def without_each(work: Float64) -> Float64:
    """Most work among the other ranks, for each rank: `work: float64[steps, ranks]`."""
    two = np.sort(work, axis=1)[:, -2:]
    first = np.arange(work.shape[1]) == work.argmax(axis=1)[:, None]
    result: Float64 = np.where(first, two[:, :1], two[:, 1:])
    return result
