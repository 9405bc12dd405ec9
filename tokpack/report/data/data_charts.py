"""Charts of the data and of its rows: files, scripts, free slots, and ranks that wait."""

from __future__ import annotations

from tokpack.on_disk.ledger import Sums
from tokpack.report.charts import (
    ACCENT,
    FONT_SIZE,
    GRAY,
    INK,
    LOST,
    NARROW,
    SOFT,
    WIDE,
    Bar,
    Chart,
    Mark,
    Stretch,
    bar_chart,
    boxes,
    first_and_rest,
)
from tokpack.report.svg import draw
from tokpack.report.values import Ranks, RowClass, Vocabulary
from tokpack.report.words import share
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line

MOST_FILES, MOST_SCRIPTS = 10, 8
HEIGHT, TOP, GAP = 140, 26, 24
"""Pixels: of the bars of ranks, above them, and between the two groups."""


def sources_chart(sources: dict[str, Sums]) -> Chart:
    """Tokens of each file, packed and not, most packed ones first; the small files together."""
    sums = sorted(sources.items(), key=lambda item: (-item[1].tokens.packed, item[0]))
    lines = [(one_line(name, 48), own.tokens.packed, own.tokens.tokenized) for name, own in sums]
    shown, rest = first_and_rest(lines, MOST_FILES)
    if rest:
        packed, tokens = (sum(line[key] for line in rest) for key in (1, 2))
        shown.append((counted(len(rest), "more file"), packed, tokens))
    bars = [
        Bar(
            name,
            f"{packed:,} packed, {share(packed, tokens)}",
            [
                Stretch(0, packed, ACCENT, f"{name}: {counted(packed, 'token')} packed"),
                Stretch(packed, tokens, LOST, f"{name}: {counted(tokens - packed, 'token')} not packed"),
            ],
        )
        for name, packed, tokens in shown
    ]
    return bar_chart(bars, "Tokens of each file, packed and left out")


def scripts_chart(vocabulary: Vocabulary) -> Chart:
    """Tokens by script, most first, the rare scripts together."""
    lines = [(line.script, line.tokens) for line in vocabulary.scripts]
    shown, rest = first_and_rest(lines, MOST_SCRIPTS)
    if rest:
        shown.append((counted(len(rest), "more script"), sum(tokens for _, tokens in rest)))
    total = vocabulary.tokens
    bars = [
        Bar(
            name,
            f"{tokens:,}, {share(tokens, total)}",
            [Stretch(0, tokens, ACCENT, f"{name}: {counted(tokens, 'token')}")],
        )
        for name, tokens in shown
    ]
    return bar_chart(bars, "Tokens of the contents by script")


def free_chart(rows: list[RowClass], capacity: int) -> Chart:
    """Rows by their free slots; classes without a row are left out."""
    total, bars, before = sum(line.rows for line in rows), [], -1.0
    for line in rows:
        name = free_words(before, line.up_to)
        before = line.up_to
        if line.rows:
            about = f"{counted(line.rows, 'row')} of {capacity:,} slots: {name}"
            color = ACCENT if line.up_to <= 0.05 else LOST
            value = f"{counted(line.rows, 'row')}, {share(line.rows, total)}"
            bars.append(Bar(name, value, [Stretch(0, line.rows, color, about)]))
    return bar_chart(bars, "Rows by their free slots")


def free_words(more_than: float, up_to: float) -> str:
    """`no free slot`, `0.1% to 1% free`."""
    if up_to == 0:
        return "no free slot"
    low = f"{more_than:.3g}" if not more_than else f"{more_than:.3%}".rstrip("0%").rstrip(".") + "%"
    high = f"{up_to:.3%}".rstrip("0%").rstrip(".") + "%"
    if not more_than:
        return f"up to {high} free"
    return f"more than {low} free" if up_to == 1 else f"{low} to {high} free"


def ranks_chart(ranks: Ranks) -> Chart:
    """The work of each rank in one step, next to the slowest: rows shuffled, and rows dealt by cost."""
    return Chart(_ranks(ranks, WIDE), _ranks(ranks, NARROW))


def _ranks(ranks: Ranks, width: int) -> str:
    import altair as alt

    each = (width - GAP) / 2
    rects, words = [], []
    for number, (name, waiting) in enumerate((("shuffled", ranks.shuffled), ("dealt", ranks.dealt))):
        start = number * (each + GAP)
        room = each / len(waiting.step)
        words.append({"x": start, "text": f"{name}: {share(waiting.idle_share, 1)} wait"})
        for rank, work in enumerate(waiting.step):
            left, right = start + rank * room, start + (rank + 1) * room - min(4, room / 4)
            about = f"{name}, rank {rank}: {work:.0%} of the slowest rank's work"
            level = TOP + HEIGHT * (1 - work)
            rects += [
                _rect(left, right, level, TOP + HEIGHT, ACCENT, about),
                _rect(left, right, TOP, level, SOFT, f"{name}, rank {rank} waits"),
            ]
    shown = [rect for rect in rects if rect["bottom"] - rect["top"] > 0.5]
    bars = boxes(shown, alt.X("left:Q", scale=None, axis=None), "right:Q")
    base = alt.Chart(alt.InlineData(values=[{"y": TOP + HEIGHT}]))
    ground = base.mark_rule(aria=False, color=GRAY).encode(y=alt.Y("y:Q", scale=None, axis=None))
    labels = (
        alt.Chart(alt.InlineData(values=words))
        .mark_text(align="left", baseline="alphabetic", fontSize=FONT_SIZE, color=INK)
        .encode(x=alt.X("x:Q", scale=None, axis=None), y=alt.YValue(FONT_SIZE), text=alt.Text("text:N"))
    )
    title = "Work of each rank in one step, rows shuffled and rows dealt by cost"
    return draw(alt.layer(bars, ground, labels), title, width, TOP + HEIGHT + 1)


def _rect(left: float, right: float, top: float, bottom: float, color: str, about: str) -> Mark:
    places = {"left": left, "right": right, "top": top, "bottom": bottom}
    return {name: round(value, 2) for name, value in places.items()} | {"color": color, "about": about}
