"""Order of packed rows: as planned, shuffled by seed, or dealt so that the ranks of a step do equal work."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokpack.arrays import Float64, Int32, Int64
from tokpack.frozen import frozen
from tokpack.schema import SEQUENTIAL
from tokpack.settings.config import PlanConfig
from tokpack.settings.plain import to_plain
from tokpack.stages.plan import Plan
from tokpack.stages.planners.deal import deal, deal_within, idle_share, row_costs, row_order


@frozen(kw_only=True)
class Dealt:
    """How rows were dealt to ranks."""

    world_size: int
    rows_per_step: int
    token_cost: int
    """Work of a token in weights, in that of a pair of tokens in attention; 0 counts attention alone."""
    steps: int
    leftover_rows: int
    idle_share: float
    """Of the time of all ranks, spent waiting for the slowest."""
    idle_share_shuffled: float


def order_rows(settings: PlanConfig, plan: Plan, lengths: Int32, seed: int) -> tuple[Int64, Dealt | None]:
    """(rows in their order: int64[rows], figures of the dealing; None where rows are not dealt)."""
    if settings.planner == SEQUENTIAL or (plan.mixed and not settings.world_size):
        return np.arange(plan.rows), None
    shuffled = _shuffled(plan, seed)
    if not settings.world_size:
        return shuffled, None
    step = settings.world_size * settings.rows_per_step
    costs = row_costs(lengths, plan.row_of_doc, linear=settings.token_cost)
    if plan.mixed:
        order, leftover = deal_within(costs, settings.world_size, step)
    elif plan.part_rows:
        order, leftover = _deal_parts(plan, costs, settings.world_size, step, seed)
    else:
        order, leftover = deal(costs, settings.world_size, step, seed)
    figures = Dealt(
        world_size=settings.world_size,
        rows_per_step=settings.rows_per_step,
        token_cost=settings.token_cost,
        steps=len(order) // step,
        leftover_rows=len(leftover),
        idle_share=round(idle_share(costs[order], settings.world_size, step), 6),
        idle_share_shuffled=round(idle_share(costs[shuffled], settings.world_size, step), 6),
    )
    return np.concatenate([order, leftover]), figures


def _parts(plan: Plan) -> list[Int64]:
    """The rows of each part; without parts, all."""
    ends = np.cumsum(plan.part_rows or (plan.rows,))
    return np.split(np.arange(plan.rows), ends[:-1])


def _shuffled(plan: Plan, seed: int) -> Int64:
    """Rows in a seeded shuffle, part after part."""
    return np.concatenate([rows[row_order(len(rows), seed)] for rows in _parts(plan)])


def _deal_parts(plan: Plan, costs: Float64, world_size: int, step: int, seed: int) -> tuple[Int64, Int64]:
    """(order, leftover): the rows of each part in steps of their own, then steps of what is left of all."""
    steps, rest = [], []
    for rows in _parts(plan):
        order, leftover = deal(costs[rows], world_size, step, seed)
        steps.append(rows[order])
        rest.append(rows[leftover])
    left = np.concatenate(rest)
    order, leftover = deal(costs[left], world_size, step, seed)
    return np.concatenate([*steps, left[order]]), left[leftover]


def plan_record(planner: str, plan: Plan, dealt: Dealt | None) -> dict[str, Any]:
    """The plan as the manifest has it."""
    return {
        "planner": planner,
        "rows": plan.rows,
        "bound": plan.bound,
        "bound_kind": plan.bound_kind,
        "gap": plan.gap,
        "fill": plan.fill,
        **({"note": plan.note} if plan.note else {}),
        **({"dealt": to_plain(dealt)} if dealt else {}),
        **({"mixed": to_plain(plan.mixed)} if plan.mixed else {}),
        **({"parted": to_plain(plan.parted)} if plan.parted else {}),
    }
