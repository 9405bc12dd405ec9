"""Order of packed rows: as planned, shuffled by seed, or dealt so that the ranks of a step do equal work."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokpack.config import PlanConfig
from tokpack.schema import SEQUENTIAL
from tokpack.stages.plan import Plan
from tokpack.stages.planners.deal import deal, idle_share, row_costs, row_order
from tokpack.stages.planners.layout import Int32, Int64


def order_rows(settings: PlanConfig, plan: Plan, lengths: Int32, seed: int) -> tuple[Int64, dict[str, Any]]:
    """(rows in their order: int64[rows], figures of the dealing; none where rows are not dealt)."""
    if settings.planner == SEQUENTIAL:
        return np.arange(plan.rows), {}
    shuffled = row_order(plan.rows, seed)
    if not settings.world_size:
        return shuffled, {}
    step = settings.world_size * settings.rows_per_step
    costs = row_costs(lengths, plan.row_of_doc, linear=settings.token_cost, quadratic=1.0)
    order, leftover = deal(costs, settings.world_size, step, seed)
    figures = {
        "world_size": settings.world_size,
        "rows_per_step": settings.rows_per_step,
        "token_cost": settings.token_cost,
        "steps": len(order) // step,
        "leftover_rows": len(leftover),
        "idle_share": round(idle_share(costs[order], settings.world_size, step), 6),
        "idle_share_shuffled": round(idle_share(costs[shuffled], settings.world_size, step), 6),
    }
    return np.concatenate([order, leftover]), figures


def plan_record(planner: str, plan: Plan, dealt: dict[str, Any]) -> dict[str, Any]:
    """The plan as the manifest has it."""
    return {
        "planner": planner,
        "rows": plan.rows,
        "bound": plan.bound,
        "bound_kind": plan.bound_kind,
        "gap": plan.gap,
        "fill": plan.fill,
        **({"note": plan.note} if plan.note else {}),
        **({"dealt": dealt} if dealt else {}),
    }
