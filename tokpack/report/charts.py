"""Charts of the report as inline SVG, drawn by Vega-Lite without a browser or a network.

Every chart is drawn twice, for a screen and for a phone; colors are CSS variables of the page, so one
drawing serves light, dark and paper. Positions are ours (no text is measured): equal data, equal bytes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from tokpack.frozen import frozen
from tokpack.on_disk.ledger import TokenSums
from tokpack.on_disk.reasons import HELD_OUT, NO_TRAINED_TOKENS, OVER_BUDGET, OVERLONG
from tokpack.report.svg import draw
from tokpack.report.values import Bin, Lengths, SlotLine
from tokpack.report.words import share
from tokpack.settings.plain import to_plain
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line

WIDE, NARROW = 720, 342
"""Widths in pixels: the page's column on a screen, and on a phone of 390."""
INK, MUTED, LINE, PAPER = "var(--ink)", "var(--muted)", "var(--line)", "var(--paper)"
ACCENT, SOFT, GRAY = "var(--accent)", "var(--soft)", "var(--gray)"
LOST, TINT, PAD = "var(--lost)", "var(--tint)", "var(--pad)"
FONT_SIZE, LINE_HEIGHT, LETTER = 13, 18, 7.4
WORDS_GAP, BAR_HEIGHT, BAR_GAP, HAIR = 8, 16, 18, 2
PLOT_HEIGHT = 220
AXIS: dict[str, Any] = {
    "labelFontSize": 12,
    "labelColor": MUTED,
    "labelPadding": 8,
    "labelOverlap": False,
    "title": None,
    "ticks": False,
}
MOST_REASONS = 8
DUPLICATES = ("exact_duplicate", "near_duplicate")
UNFIT = (OVERLONG, NO_TRAINED_TOKENS, OVER_BUDGET, HELD_OUT)

Scale = TypeVar("Scale", int, float)
Mark = dict[str, Any]
"""What Vega-Lite draws one mark from."""


@frozen
class Chart:
    wide: str
    narrow: str


@frozen
class Stretch:
    """A stretch of a bar, in the unit of the chart."""

    start: float
    end: float
    color: str
    about: str


@frozen
class Bar:
    """A line of a bar chart: words left, figures right, the bar below them."""

    label: str
    value: str
    parts: list[Stretch]
    strong: bool = False


def slots_chart(lines: list[SlotLine]) -> Chart:
    """Token slots of each way to train on the same data: tokens and padding."""
    bars = []
    for line in lines:
        tokens, slots = line.tokens, line.slots
        parts = [
            Stretch(0, tokens, ACCENT, f"{line.name}: {counted(tokens, 'token')}"),
            Stretch(tokens, slots, PAD, f"{line.name}: {counted(slots - tokens, 'slot')} of padding"),
        ]
        last = line is lines[-1]
        bars.append(
            Bar(line.name, f"{counted(slots, 'slot')}, {share(line.fill, 1)} full", parts, strong=last)
        )
    return bar_chart(bars, "Token slots per epoch, unpacked and packed")


def tokens_chart(tokens: TokenSums) -> Chart:
    """From all tokens to the packed ones: what each reason takes away."""
    level = tokens.tokenized
    bars = [
        Bar(
            "tokens in the data",
            f"{level:,}",
            [Stretch(0, level, GRAY, f"{counted(level, 'token')} in the data")],
        )
    ]
    for label, lost in _losses(tokens):
        color = GRAY if label == HELD_OUT else LOST
        bars.append(
            Bar(
                label,
                f"\N{MINUS SIGN}{lost:,}",
                [Stretch(level - lost, level, color, f"{label}: {counted(lost, 'token')}")],
            )
        )
        level -= lost
    if again := tokens.repeated:
        part = Stretch(level, level + again, ACCENT, f"{counted(again, 'token')} of repeated documents")
        bars.append(Bar("repeated", f"+{again:,}", [part]))
        level += again
    packed = Stretch(0, level, ACCENT, f"{counted(level, 'token')} packed")
    bars.append(Bar("packed", f"{level:,}", [packed], strong=True))
    return bar_chart(bars, "Tokens in the data, tokens left out by reason, tokens packed")


def _losses(tokens: TokenSums) -> list[tuple[str, int]]:
    """Duplicates, noise, what does not fit: each most tokens first, the small ones together; last what is cut
    off kept documents."""
    reasons = sorted(tokens.dropped.items(), key=lambda item: (-item[1], item[0]))
    most, rest = first_and_rest(reasons, MOST_REASONS)
    shown = sorted(most, key=lambda item: _turn(item[0]))
    losses = [(one_line(reason, 40), lost) for reason, lost in shown if lost]
    if together := sum(lost for _, lost in rest):
        losses.append((counted(len(rest), "more reason"), together))
    if tokens.truncated:
        losses.append(("cut off to fit a row", tokens.truncated))
    return losses


def first_and_rest(lines: list[Any], most: int) -> tuple[list[Any], list[Any]]:
    """The first `most` lines, one more where it would be all the rest; and the rest."""
    most += len(lines) == most + 1
    return lines[:most], lines[most:]


def _turn(reason: str) -> int:
    return 0 if reason in DUPLICATES else 2 if reason in UNFIT else 1


def split_chart(first: tuple[int, str], second: tuple[int, str], title: str) -> Chart:
    """One bar of two parts that make up a whole."""
    (left, left_name), (right, right_name) = first, second
    whole = left + right
    bar = Bar(
        f"{left:,} {left_name}, {share(left, whole, 1)}",
        f"{right:,} {right_name}",
        [
            Stretch(0, left, ACCENT, f"{left:,} {left_name}"),
            Stretch(left, whole, GRAY, f"{right:,} {right_name}"),
        ],
    )
    return bar_chart([bar], title)


def bar_chart(bars: list[Bar], title: str) -> Chart:
    return Chart(_bars(bars, title, WIDE), _bars(bars, title, NARROW))


def _bars(bars: list[Bar], title: str, width: int) -> str:
    import altair as alt

    tops, words = labeled(bars, width, BAR_HEIGHT)
    layers = [_stretches(bars, tops, width), *words]
    return draw(alt.layer(*layers), title, width, tops[-1] + BAR_HEIGHT)


class Labeled(Protocol):
    """A line of a chart: words left, figures right, something drawn below them."""

    @property
    def label(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def strong(self) -> bool: ...


def labeled(lines: Sequence[Labeled], width: int, height: int) -> tuple[list[int], list[Any]]:
    """Where what is drawn for each line begins, `height` pixels high, and the layers of the words above it.

    On a phone the figures get a line of their own where both do not fit.
    """
    fits = all((len(line.label) + len(line.value) + 3) * LETTER < width for line in lines)
    labels, values, tops = [], [], []
    y = FONT_SIZE
    for line in lines:
        parts = [line.label] if fits else textwrap.wrap(line.label, int(width / LETTER)) or [""]
        labels += [(part, y + i * LINE_HEIGHT, line.strong) for i, part in enumerate(parts)]
        y += LINE_HEIGHT * (len(parts) - 1 if fits else len(parts))
        values.append((line.value, y, line.strong))
        tops.append(y + WORDS_GAP)
        y += WORDS_GAP + height + BAR_GAP + FONT_SIZE
    right = words_at(values, width, "right", INK) if fits else words_at(values, 0, "left", MUTED)
    return tops, [*words_at(labels, 0, "left", INK), *right]


def _stretches(bars: list[Bar], tops: list[int], width: int) -> Any:
    """The parts of all bars; none is thinner than a hair, so that small losses can be seen."""
    import altair as alt

    longest = max((part.end for bar in bars for part in bar.parts), default=0) or 1
    hair = HAIR * longest / width
    rects = [
        {
            "start": max(0, min(part.start, part.end - hair)),
            "end": max(part.end, hair),
            "top": top,
            "bottom": top + BAR_HEIGHT,
            "color": part.color,
            "about": part.about,
        }
        for bar, top in zip(bars, tops, strict=True)
        for part in bar.parts
        if part.end > part.start
    ]
    x = alt.X("start:Q", scale=alt.Scale(domain=[0, longest], nice=False), axis=None)
    return boxes(rects, x, "end:Q")


def boxes(values: list[Mark], x: Any, end: str) -> Any:
    """Rectangles from `x` to the field `end`, from pixel `top` to `bottom`, each with `color` and `about`."""
    import altair as alt

    rects = alt.Chart(alt.InlineData(values=values)).mark_rect()
    places = {"x": x, "x2": alt.X2(end), "y": alt.Y("top:Q", scale=None, axis=None), "y2": alt.Y2("bottom:Q")}
    looks = {"color": alt.Color("color:N", scale=None), "description": alt.Description("about:N")}
    return rects.encode(**places, **looks)


def words_at(words: list[tuple[str, int, bool]], x: int, align: str, color: str) -> list[Any]:
    """Text marks at the given baselines in pixels, the strong ones bold."""
    import altair as alt

    style = {"align": align, "baseline": "alphabetic", "fontSize": FONT_SIZE, "color": color}
    return [
        alt.Chart(
            alt.InlineData(values=[{"text": text, "y": y} for text, y, bold in words if bold is strong])
        )
        .mark_text(fontWeight=600 if strong else 400, **style)
        .encode(x=alt.XValue(x), y=alt.Y("y:Q", scale=None, axis=None), text=alt.Text("text:N"))
        for strong in sorted({strong for *_, strong in words})
    ]


def lengths_chart(lengths: Lengths, capacity: int) -> Chart:
    """Documents by length over a logarithmic axis; those longer than the capacity in another color."""
    return Chart(_lengths(lengths, capacity, WIDE), _lengths(lengths, capacity, NARROW))


def _lengths(lengths: Lengths, capacity: int, width: int) -> str:
    import altair as alt

    bins = lengths.histogram
    low, high = bins[0].start, max(bins[-1].end, capacity + 1)
    levels = level_ticks(max(b.documents for b in bins))
    bare = AXIS | {"format": ",d"}
    ticks = length_ticks(low, high, 10 if width == WIDE else 6)
    x = alt.X(
        "from:Q",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(values=ticks, grid=False, domainColor=GRAY, labelFlush=False, **bare),
    )
    y = alt.Y(
        "shown:Q",
        scale=alt.Scale(domain=[0, levels[-1]], nice=False),
        axis=alt.Axis(values=levels, gridColor=LINE, domain=False, **bare),
    )
    left, right = 12 + 8 * len(f"{levels[-1]:,}"), 22
    hair = math.ceil(HAIR * levels[-1] / PLOT_HEIGHT)
    bars = (
        alt.Chart(alt.InlineData(values=[_bin(b, capacity, hair) for b in bins if b.documents]))
        .mark_rect(stroke=PAPER, strokeWidth=1)
        .encode(
            x=x,
            x2=alt.X2("to:Q"),
            y=y,
            y2=alt.Y2Value(PLOT_HEIGHT),
            color=alt.Color("color:N", scale=None),
            description=alt.Description("about:N"),
        )
    )
    room = math.log(high / (capacity + 1)) / math.log(high / low) * (width - left - right) + right
    layers = [*_capacity_marks(lengths.overlong or 0, capacity, low, high, room), bars]
    padding = {"left": left, "right": right, "top": 28, "bottom": 30}
    return draw(
        alt.layer(*layers), "Documents by length in tokens", width - left - right, PLOT_HEIGHT, padding
    )


def _bin(b: Bin, capacity: int, hair: int) -> Mark:
    about = f"{span(b.start, b.end - 1)}: {counted(b.documents, 'document')}, {counted(b.tokens, 'token')}"
    color = LOST if b.start > capacity else ACCENT
    mark: Mark = to_plain(b)
    return mark | {"shown": max(b.documents, hair), "color": color, "about": about}


def _capacity_marks(overlong: int, capacity: int, low: int, high: int, room: float) -> list[Any]:
    """A dashed line where a row ends, and the ground beyond it, where documents do not fit. `room`: pixels
    right of the line."""
    import altair as alt

    if capacity < low:
        return []
    edge = alt.Chart(alt.InlineData(values=[{"x": capacity + 1, "end": high}])).encode(x=alt.X("x:Q"))
    line = dashed_line(edge)
    here, longer = f"a row: {capacity:,} tokens", f"{overlong:,} longer"
    if not overlong:
        leans_left = math.log((capacity + 1) / low) >= 0.5 * math.log(high / low)
        return [line, word_at_line(edge, here, leans_left)]
    ground = edge.mark_rect(color=TINT, aria=False).encode(
        x2=alt.X2("end:Q"), y=alt.YValue(0), y2=alt.Y2Value(PLOT_HEIGHT)
    )
    if len(longer) * LETTER + 7 > room:
        return [ground, line, word_at_line(edge, f"{here}, {longer}", True)]
    return [ground, line, word_at_line(edge, here, True), word_at_line(edge, longer, False, LOST)]


def dashed_line(edge: Any, above: int = 0) -> Any:
    """From over the plot to its foot, at the x of `edge`; `above`: pixels more."""
    import altair as alt

    rule = edge.mark_rule(aria=False, color=INK, strokeDash=[3, 3])
    return rule.encode(y=alt.YValue(-20 - above), y2=alt.Y2Value(PLOT_HEIGHT))


def word_at_line(edge: Any, text: str, leans_left: bool, color: str = INK, above: int = 0) -> Any:
    """A word over the plot, on one side of the dashed line."""
    import altair as alt

    align, dx = ("right", -7) if leans_left else ("left", 7)
    word = edge.mark_text(align=align, dx=dx, baseline="alphabetic", fontSize=12, color=color, text=text)
    return word.encode(y=alt.YValue(-10 - above))


def span(first: int, last: int) -> str:
    return f"{counted(first, 'token')}" if first == last else f"{first:,} to {counted(last, 'token')}"


def length_ticks(low: int, high: int, most: int) -> list[int]:
    """Powers of two within [low, high], thinned to at most `most`."""
    powers = [2**n for n in range(64) if low <= 2**n <= high]
    step = max(1, math.ceil(len(powers) / most))
    return powers[::-1][::step][::-1] or [low]


def level_ticks(highest: int) -> list[int]:
    """Round whole numbers from 0 to at least `highest`, three to five steps."""
    step = round_step(highest, [10**n for n in range(20)])
    return list(range(0, step * math.ceil(highest / step) + 1, step))


def round_step(highest: float, scales: Sequence[Scale]) -> Scale:
    """The smallest of 1, 2 and 5 times a scale of which four reach `highest`; `scales`: ascending."""
    return next(scale * factor for scale in scales for factor in (1, 2, 5) if highest <= 4 * scale * factor)
