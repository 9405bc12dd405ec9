"""Forest plots: a line for each interval, a dot for its figure, a dashed rule where nothing differs."""

from __future__ import annotations

from dataclasses import dataclass

from tokpack.report.charts import (
    ACCENT,
    GRAY,
    INK,
    LINE,
    LOST,
    NARROW,
    WIDE,
    Chart,
    labeled,
)
from tokpack.report.svg import draw
from trainer_plugin.evaluation.statistics import Interval

BAND, MARGIN = 14, 0.04
"""Height of a line's band in pixels; share of the width left free on either side."""


@dataclass(frozen=True, slots=True)
class ForestLine:
    """One interval: words left, figures right, the interval below them."""

    label: str
    value: str
    interval: Interval
    strong: bool = False


def forest(lines: list[ForestLine], title: str, *, less_is_better: bool = True) -> Chart:
    return Chart(*(_forest(lines, title, width, less_is_better) for width in (WIDE, NARROW)))


def _forest(lines: list[ForestLine], title: str, width: int, less_is_better: bool) -> str:
    import altair as alt

    bands, words = labeled(lines, width, BAND)
    layers = [*_marks(lines, bands, less_is_better), *words]
    return draw(alt.layer(*layers), title, width, bands[-1] + BAND)


def _marks(lines: list[ForestLine], bands: list[int], less_is_better: bool) -> list[object]:
    import altair as alt

    ends = [end for line in lines for end in _ends(line.interval)] + [0.0]
    low, high = min(ends), max(ends)
    room = (high - low or 1.0) * MARGIN
    domain = [low - room, high + room]
    x = {"scale": alt.Scale(domain=domain, nice=False), "axis": None}
    rows = [
        {
            "low": first,
            "high": last,
            "value": line.interval.value,
            "top": band,
            "middle": band + BAND / 2,
            "bottom": band + BAND,
            "color": _color(line.interval, less_is_better),
            "about": f"{line.label}: {line.value}",
            "from": domain[0],
            "to": domain[1],
            "zero": 0.0,
        }
        for line, band in zip(lines, bands, strict=True)
        for first, last in [_ends(line.interval)]
    ]
    base = alt.Chart(alt.InlineData(values=rows))
    middle, color = alt.Y("middle:Q", scale=None, axis=None), alt.Color("color:N", scale=None)
    return [
        base.mark_rule(aria=False, color=LINE).encode(x=alt.X("from:Q", **x), x2=alt.X2("to:Q"), y=middle),
        base.mark_rule(aria=False, color=INK, strokeDash=[2, 2]).encode(
            x=alt.X("zero:Q", **x), y=alt.Y("top:Q", scale=None, axis=None), y2=alt.Y2("bottom:Q")
        ),
        base.mark_rule(strokeWidth=4, aria=False).encode(
            x=alt.X("low:Q", **x), x2=alt.X2("high:Q"), y=middle, color=color
        ),
        base.mark_circle(size=90, opacity=1, fillOpacity=1).encode(
            x=alt.X("value:Q", **x), y=middle, color=color, description=alt.Description("about:N")
        ),
    ]


def _ends(interval: Interval) -> tuple[float, float]:
    low = interval.value if interval.low is None else interval.low
    return low, interval.value if interval.high is None else interval.high


def _color(interval: Interval, less_is_better: bool) -> str:
    if not interval.sure:
        return GRAY
    return ACCENT if (interval.value < 0) == less_is_better else LOST
