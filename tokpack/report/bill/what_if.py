"""Inputs of the page that recompute the bill: without the start it is linear in price, epochs and
1 / utilization, and each length of a row was costed already. The arithmetic is in
page.js; here are its figures."""

from __future__ import annotations

from tokpack.frozen import frozen
from tokpack.report.bill.cost_figures import Cost
from tokpack.report.bill.cost_words import ends


@frozen
class RowLength:
    """A length of a row that was costed."""

    capacity: int
    rows: int
    low_hours: float
    high_hours: float
    """GPU-hours without the start."""
    ideal_hours: float
    """GPU-hours at all of the card's peak, without the start; 0 where no peak is known."""
    fits: bool


@frozen
class WhatIf:
    price: float
    """Dollars per GPU-hour."""
    epochs: float
    """Those that the hours are for."""
    rows_per_step: int
    """On all GPUs."""
    gpu_count: int
    current: int
    start_hours: tuple[float, float]
    """GPU-hours of the start, low and high."""
    lengths: list[RowLength]


def what_if(cost: Cost) -> WhatIf | None:
    """None where the bill knows no money."""
    use, gpu, run = cost.run_plan.use, cost.gpu, cost.estimate
    if run is None or gpu is None or gpu.price is None:
        return None
    peak = gpu.peak.value * 1e12 * 3600 if gpu.peak else 0.0
    low_start, high_start = (gpu.count * end for end in ends(run.startup))
    lengths = []
    for point in cost.curve.points:
        low, high = ends(point.hours) if point.hours else (0.0, 0.0)
        low = max(0.0, low - low_start)
        length = RowLength(
            capacity=point.capacity,
            rows=int(point.rows.value),
            low_hours=low,
            high_hours=max(low, high - high_start),
            ideal_hours=point.flops.value / peak if peak else 0.0,
            fits=point.fits is not False,
        )
        lengths.append(length)
    return WhatIf(
        price=gpu.price.value,
        epochs=cost.recipe.epochs,
        rows_per_step=use.micro_batch * use.accumulation * use.gpu_count,
        gpu_count=gpu.count,
        current=cost.curve.current,
        start_hours=(low_start, high_start),
        lengths=lengths,
    )
