"""Inputs of the page that recompute the bill: it is linear in price, epochs and 1 / utilization, and each
length of a row was costed already. The arithmetic is in page.js; here are its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokpack.report.cost_words import ends, priced


@dataclass(frozen=True, slots=True)
class Length:
    """A length of a row that was costed."""

    capacity: int
    rows: int
    low_hours: float
    high_hours: float
    ideal_hours: float
    """GPU-hours at all of the card's peak; 0 where no peak is known."""
    fits: bool


@dataclass(frozen=True, slots=True)
class WhatIf:
    price: float
    """Dollars per GPU-hour."""
    epochs: float
    """Those that the hours are for."""
    rows_per_step: int
    """On all GPUs."""
    gpu_count: int
    current: int
    lengths: list[Length]


def what_if(cost: dict[str, Any]) -> WhatIf | None:
    """None where the bill knows no money."""
    if not priced(cost):
        return None
    use, gpu = cost["run_plan"]["use"], cost["gpu"]
    peak = gpu["peak"]["value"] * 1e12 * 3600 if gpu.get("peak") else 0.0
    lengths = [
        Length(
            capacity=point["capacity"],
            rows=point["rows"]["value"],
            low_hours=ends(point["hours"])[0],
            high_hours=ends(point["hours"])[1],
            ideal_hours=point["flops"]["value"] / peak if peak else 0.0,
            fits=point["fits"] is not False,
        )
        for point in cost["curve"]["points"]
    ]
    return WhatIf(
        price=gpu["price"]["value"],
        epochs=cost["recipe"]["epochs"],
        rows_per_step=use["micro_batch"] * use["accumulation"] * use["gpu_count"],
        gpu_count=gpu["count"],
        current=cost["curve"]["current"],
        lengths=lengths,
    )
