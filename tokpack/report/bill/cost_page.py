"""What the page shows of the bill before training: words and figures of each section, charts included."""

from __future__ import annotations

from typing import Any

from tokpack.report.bill.cost_charts import curve_chart, memory_chart
from tokpack.report.bill.cost_figures import Cost
from tokpack.report.bill.cost_tables import (
    advice_table,
    cards_table,
    lengths_table,
    services_table,
    settings_table,
    ways_table,
)
from tokpack.report.bill.cost_words import (
    NOTHING,
    UNITS,
    amount,
    cost_words,
    curve_words,
    flops,
    hours,
    measured,
    speed,
    utilization,
)
from tokpack.report.bill.what_if import what_if
from tokpack.terminal.printable import one_line


def cost_view(cost: Cost | None) -> dict[str, Any] | None:
    """Everything that page_cost.html.j2 needs; None without a bill."""
    if cost is None:
        return None
    return {
        "words": cost_words(cost),
        "unit": UNITS[cost.counts_in],
        "bill": [(way.name, measured(cost, way)) for way in cost.comparison],
        "ways": ways_table(cost),
        "facts": _facts(cost),
        "advice": advice_table(cost.recommendations) if cost.recommendations else None,
        "nothing": NOTHING,
        "settings": settings_table(cost.run_plan),
        "charts": {
            "curve": curve_chart(cost),
            "memory": memory_chart(cost),
        },
        "curve": curve_words(cost.curve),
        "lengths": lengths_table(cost),
        "unfit": any(point.fits is False for point in cost.curve.points),
        "cards": cards_table(cost.cards) if cost.cards else None,
        "services": services_table(cost.api) if cost.api else None,
        "memory_advice": [
            one_line(advice.do, 200) for advice in cost.memory.advice if cost.memory.fits is False
        ],
        "assumptions": _assumptions(cost),
        "what_if": what_if(cost),
    }


def _facts(cost: Cost) -> list[tuple[str, str, str]]:
    """Value, name, and what to compare it with."""
    final, plan, memory = cost.estimate, cost.run_plan, cost.memory
    facts = []
    if final is not None and cost.gpu is not None:
        gpus = f"{cost.gpu.count} {one_line(cost.gpu.key, 30)}"
        facts.append((hours(final.wall_hours), "to train", f"on {gpus}"))
    else:
        facts.append((flops(cost.comparison[-1].flops), "of work", "give --gpu for hours and money"))
    saved = cost.saved_share.value
    facts.append((f"{abs(saved):.0%}", "less" if saved >= 0 else "more", "than padded batches"))
    usable = f"of {memory.usable.value:.1f} GiB to use" if memory.usable else "one row at once"
    facts.append((f"{memory.parts.total.value:.1f} GiB", "of GPU memory", usable))
    before = plan.before.steps.value
    facts.append((f"{plan.use.steps.value:,}", "optimizer steps", f"{before:,} without packing"))
    return facts


def _assumptions(cost: Cost) -> list[tuple[str, str, str]]:
    """What is assumed: name, value, where it is from."""
    out, gpu, run = [], cost.gpu, cost.estimate
    if gpu and gpu.price:
        out.append(("Price", f"${amount(gpu.price.value)} per GPU-hour", one_line(gpu.price.note, 200)))
    if run and run.utilization is None:
        out.append(("Speed", "measured", one_line(run.gpu_hours.note, 200)))
    elif run and run.utilization and gpu and gpu.peak:
        reached = f"of the peak, packed: {one_line(run.utilization.note, 200)}"
        out += [
            ("Peak", f"{gpu.peak.value:g} TFLOP/s", one_line(gpu.peak.note, 200)),
            ("Speed", speed(run), "of one GPU, packed"),
            ("Utilization", utilization(run.utilization), reached),
        ]
    if run:
        out.append(("Start", hours(run.startup), "of each GPU, until the first step; in all hours"))
    if cost.memory.usable:
        out.append(("Memory", "95%", "of what the GPU's driver reports can be used, less 0.6 GiB for CUDA"))
    whole = cost.memory.whole_logits
    words = f"makes logits in chunks; one row needs {whole.value:.1f} GiB {whole.note}"
    return [*out, ("Loss", "tokpack train's", words)]
