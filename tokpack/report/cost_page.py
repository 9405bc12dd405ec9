"""What the page shows of the bill before training: words and figures of each section, charts included."""

from __future__ import annotations

from typing import Any

from tokpack.printable import one_line
from tokpack.report.cost_charts import curve_chart, memory_chart
from tokpack.report.cost_figures import Cost, PlannedRun
from tokpack.report.cost_words import (
    UNITS,
    amount,
    cost_words,
    curve_words,
    flops,
    hours,
    measured,
    money,
    saves_words,
    speed,
    utilization,
)
from tokpack.report.what_if import what_if
from tokpack.report.words import share


def cost_view(cost: Cost | None) -> dict[str, Any] | None:
    """Everything that page_cost.html.j2 needs; None without a bill."""
    if cost is None:
        return None
    return {
        "words": cost_words(cost),
        "unit": UNITS[cost.counts_in],
        "timed": cost.timed,
        "ways": _ways(cost),
        "facts": _facts(cost),
        "advice": _advice(cost),
        "plan": _plan(cost.run_plan),
        "charts": {
            "curve": curve_chart(cost),
            "memory": memory_chart(cost),
        },
        "curve": curve_words(cost.curve),
        "points": _points(cost),
        "unfit": any(point.fits is False for point in cost.curve.points),
        "cards": [
            {
                "name": one_line(card.key, 40),
                "hours": hours(card.hours),
                "money": money(card.money),
                "hours_value": card.hours.value,
                "money_value": card.money.value if card.money else 0,
                "about": ", ".join(
                    ["this run"] * card.chosen
                    + ["gradient checkpointing"] * card.checkpointing
                    + ["measured"] * (card.hours.source == "measured")
                    + ["no bf16"] * (card.dtype == "fp16")
                ),
            }
            for card in cost.cards
        ],
        "services": [
            (
                one_line(service.provider, 40),
                one_line(service.model, 60),
                money(service.as_it_came),
                money(service.cleaned),
                service.chosen,
            )
            for service in cost.api
        ],
        "memory_advice": [
            one_line(advice.do, 200) for advice in cost.memory.advice if cost.memory.fits is False
        ],
        "assumptions": _assumptions(cost),
        "what_if": what_if(cost),
    }


def _ways(cost: Cost) -> list[dict[str, Any]]:
    """Each way to train: what it takes, and what it saves of padded batches."""
    lines = []
    for way in cost.comparison:
        saved = way.saved
        less = saved.share.value > 0
        lines.append(
            {
                "name": way.name,
                "value": measured(cost, way),
                "number": cost.counted(way).value,
                "slots": way.slots.value,
                "steps": way.steps.value,
                "fill": share(way.fill.value, 1),
                "fill_value": way.fill.value,
                "less": f"{saved.share.value:.0%}" if less else "",
                "less_value": saved.share.value,
                "less_money": money(saved.money) if less and saved.money else "",
            }
        )
    return lines


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


def _advice(cost: Cost) -> list[dict[str, Any]]:
    out = []
    for advice in cost.recommendations:
        words = {key: one_line(getattr(advice, key), 300) for key in ("do", "flag", "why")}
        out.append(words | {"saves": saves_words(advice, " of the work"), "urgent": advice.urgent})
    return out


def _plan(plan: PlannedRun) -> list[dict[str, Any]]:
    ways = {
        "not packed": plan.before,
        "packed, nothing changed": plan.unchanged,
        "packed, use this": plan.use,
    }
    return [
        {
            "name": name,
            "batch": settings.micro_batch,
            "accumulation": settings.accumulation,
            "rate": f"{settings.learning_rate:.3g}",
            "documents": f"{settings.samples_per_step.value:.1f}",
            "steps": settings.steps.value,
            "strong": settings is plan.use,
        }
        for name, settings in ways.items()
    ]


def _points(cost: Cost) -> list[dict[str, Any]]:
    return [
        {
            "capacity": point.capacity,
            "about": ", ".join(
                word
                for word, holds in (
                    ("this run", point.capacity == cost.curve.current),
                    ("recommended", point.capacity == cost.curve.recommended),
                    ("does not fit", point.fits is False),
                    ("gradient checkpointing", point.checkpointing and point.fits is not False),
                )
                if holds
            ),
            "rows": point.rows.value,
            "fill": share(point.fill.value, 1),
            "fill_value": point.fill.value,
            "cut": share(point.truncated_share.value, 1, 2),
            "cut_value": point.truncated_share.value,
            "memory": f"{point.memory.value:.1f} GiB" if point.memory else "",
            "memory_value": point.memory.value if point.memory else 0,
            "cost": measured(cost, point),
            "cost_value": cost.counted(point).value,
        }
        for point in cost.curve.points
    ]


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
