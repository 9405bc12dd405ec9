"""Charts of the bill before training: ways to train in money, capacities in money, memory by part."""

from __future__ import annotations

from typing import Any

from tokpack.cost import Figure
from tokpack.report.bill.cost_figures import Cost, LengthFigures
from tokpack.report.bill.cost_words import PARTS, WORDS, amount, ends, measured
from tokpack.report.charts import (
    ACCENT,
    AXIS,
    GRAY,
    LINE,
    LOST,
    NARROW,
    PLOT_HEIGHT,
    SOFT,
    WIDE,
    Bar,
    Chart,
    Mark,
    Stretch,
    bar_chart,
    dashed_line,
    round_step,
    word_at_line,
)
from tokpack.report.svg import draw

ABOVE = 14
"""Pixels from one word above the plot to one that stands over it."""


def memory_chart(cost: Cost) -> Chart:
    """Parts of the memory of one row, largest first, end to end, and what the GPU has."""
    total, usable = cost.memory.parts.total.value, cost.memory.usable
    bars, level = [], 0.0
    for name, gib in cost.memory.parts.shown():
        part = Stretch(level, level + gib, ACCENT, f"{PARTS[name]}: {gib:.2f} GiB")
        bars.append(Bar(PARTS[name], f"{gib:.2f} GiB", [part]))
        level += gib
    whole = [Stretch(0, total, ACCENT, f"together: {total:.2f} GiB")]
    words = f"{total:.1f} GiB"
    if usable is not None:
        room = usable.value
        words += f" of {room:.1f} to use"
        if room < total:
            whole = [
                Stretch(0, room, ACCENT, f"the GPU's {room:.1f} GiB"),
                Stretch(room, total, LOST, "too much"),
            ]
    bars.append(Bar("together", words, whole, strong=True))
    return bar_chart(bars, "GPU memory of one row at once")


def curve_chart(cost: Cost) -> Chart:
    """Cost against capacity on a logarithmic axis: the range as a band, the run and the advice marked."""
    return Chart(_curve(cost, WIDE), _curve(cost, NARROW))


def _curve(cost: Cost, width: int) -> str:
    import altair as alt

    points = [_point(cost, point) for point in cost.curve.points]
    levels = money_ticks(max(point["high"] for point in points))
    labels = {level: _level(level, cost) for level in levels}
    step = levels[1]
    capacities = [point["capacity"] for point in points]
    low, high = capacities[0] / 1.15, capacities[-1] * 1.15
    shown = capacities if width == WIDE else thinned(capacities, 5)
    x = alt.X(
        "capacity:Q",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(values=shown, grid=False, domainColor=GRAY, format=",d", **AXIS),
    )
    # Levels are whole steps, so that labels can be looked up by their place.
    y = alt.Y(
        "low_step:Q",
        scale=alt.Scale(domain=[0, len(levels) - 1], nice=False),
        axis=alt.Axis(
            values=list(range(len(levels))),
            labelExpr=f"{[labels[level] for level in levels]!r}[datum.value]",
            gridColor=LINE,
            domain=False,
            **AXIS,
        ),
    )
    for point in points:
        point |= {"low_step": point["low"] / step, "high_step": point["high"] / step}
    base = alt.Chart(alt.InlineData(values=points)).encode(x=x)
    band = base.mark_area(color=SOFT, aria=False).encode(y=y, y2=alt.Y2("high_step:Q"))
    dots = base.mark_circle(size=70, opacity=1, fillOpacity=1).encode(
        y=y, color=alt.Color("color:N", scale=None), description=alt.Description("about:N")
    )
    left = 14 + 7 * max(len(label) for label in labels.values())
    layers = [band, *_marks(points), dots]
    padding = {"left": left, "right": 24, "top": 28 + ABOVE, "bottom": 30}
    title = "Cost of training by tokens a row"
    return draw(alt.layer(*layers), title, width - left - 24, PLOT_HEIGHT, padding)


def _point(cost: Cost, point: LengthFigures) -> Mark:
    curve = cost.curve
    low, high = ends(cost.counted(point))
    about = f"{point.capacity:,} tokens a row: {measured(cost, point)}"
    if point.truncated.value:
        about += f", {point.truncated_share.value:.2%} of the tokens cut"
    marks = []
    if point.capacity == curve.current:
        marks.append("this run")
    if point.capacity == curve.recommended:
        marks.append("recommended")
    fits = point.fits is not False
    return {
        "capacity": point.capacity,
        "low": low,
        "high": high,
        "about": about if fits else f"{about}; does not fit",
        "color": ACCENT if fits else LOST,
        "mark": ", ".join(marks),
    }


def _marks(points: list[Mark]) -> list[Any]:
    """A dashed line with its word at this run's capacity and at the recommended one."""
    import altair as alt

    layers = []
    marked = [point for point in points if point["mark"]]
    middle = points[len(points) // 2]["capacity"]
    for point in marked:
        edge = alt.Chart(alt.InlineData(values=[point])).encode(x=alt.X("capacity:Q"))
        # Two words turn their backs on each other; one leans to where there is room.
        leans_left = point is marked[0] if len(marked) == 2 else point["capacity"] > middle
        if point["capacity"] == points[0]["capacity"]:
            leans_left = False
        last = point["capacity"] == points[-1]["capacity"]
        leans_left |= last
        # At the right edge the second word leans over the first, and has a line of its own above it.
        above = ABOVE if last and len(marked) == 2 else 0
        word = word_at_line(edge, point["mark"], leans_left, above=above)
        layers += [dashed_line(edge, above), word]
    return layers


def _level(level: float, cost: Cost) -> str:
    if not level:
        return "0"
    if cost.priced:
        return f"${amount(level)}"
    return WORDS[cost.counts_in](Figure(level, "", "computed"))


def thinned(values: list[int], most: int) -> list[int]:
    """Every so many of the values, the last one kept."""
    step = -(-len(values) // most)
    return values[::-1][::step][::-1]


def money_ticks(highest: float) -> list[float]:
    """From 0 in three to five round steps to at least `highest`, however small it is."""
    step = round_step(highest, [10.0**n for n in range(-12, 40)])
    return [step * n for n in range(int(-(-highest // step)) + 1)]
