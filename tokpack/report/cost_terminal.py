"""The bill before training in the terminal: the first screen, and the tables behind it."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from tokpack.printable import one_line
from tokpack.report.cost_figures import Cost
from tokpack.report.cost_words import (
    PARTS,
    UNITS,
    cost_words,
    curve_words,
    hours,
    measured,
    money,
    saves_words,
)
from tokpack.report.tables import BAD, FACTS, GOOD, QUIET, READABLE, WIDE, facts_grid, plain_table
from tokpack.report.words import share


def cost_bill(cost: Cost) -> RenderableType:
    """What it costs, what to do, does it fit, how to run it."""
    words = cost_words(cost)
    head = [
        Text(words.headline, style=f"bold {GOOD}"),
        Text(words.explanation),
        Text(words.setting, style=QUIET),
    ]
    lines = [("fits", words.fit), ("or by API", words.service), ("steps", words.steps)]
    facts = facts_grid([line for line in lines if line[1]] + [("train with", words.command)])
    warnings = [Text(f"! {warning}", style=BAD) for warning in words.warnings]
    parts: list[RenderableType] = [Constrain(Group(*head), READABLE), WaysTable(cost), advice_table(cost)]
    last = Constrain(Group(facts, *warnings), FACTS)
    return Group(*(item for part in parts for item in (part, Text())), last)


class WaysTable:
    """The same training in several ways: fill, GPU time, money, the saving; slots and steps where there is
    room."""

    def __init__(self, cost: Cost) -> None:
        self.cost = cost

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cost, wide = self.cost, options.max_width >= WIDE
        last = cost.counts_in
        names = [*["slots an epoch"] * wide, "full", *["steps"] * wide]
        names += [*["GPU time"] * (last == "money"), UNITS[last], "less"]
        table = plain_table("The same data, trained in other ways", "", *names)
        for way in cost.comparison:
            cells = [f"{way.slots.value:,}"] * wide + [share(way.fill.value, 1)]
            cells += [f"{way.steps.value:,}"] * wide + [hours(way.hours)] * (last == "money")
            cells.append(measured(cost, way))
            saved = way.saved.share.value
            cells.append(f"{saved:.0%}" if saved > 0 else "")
            style = "bold" if way is cost.comparison[-1] else ""
            table.add_row(Text(way.name), *cells, style=style)
        yield table


def advice_table(cost: Cost) -> RenderableType:
    """What to do, most money first, and the flag that does it."""
    if not cost.recommendations:
        return Text("Nothing to change: these settings are the cheapest of those looked at.")
    table = plain_table("What to do", "", "", "saves", "", words=2)
    table.columns[2].no_wrap = True
    table.columns[3].justify = "left"
    table.columns[3].no_wrap = False
    for number, advice in enumerate(cost.recommendations, 1):
        what = Text(f"{number} {one_line(advice.do, 120)}", style="bold" if advice.urgent else "")
        table.add_row(
            what,
            Text(one_line(advice.flag, 60)),
            saves_words(advice),
            Text(one_line(advice.why, 300), style=QUIET),
        )
    return table


def cost_details(cost: Cost) -> list[RenderableType]:
    """Capacities, cards, services, memory, and where the figures come from."""
    parts: list[RenderableType] = [capacities_table(cost)]
    if cost.cards:
        parts.append(cards_table(cost))
    if cost.api:
        parts.append(services_table(cost))
    sources = MEASURED if cost.calibrated else SOURCES
    return [*parts, memory_table(cost), Constrain(Text(sources, style=QUIET), READABLE)]


SOURCES = (
    "Computed: parameters, slots, FLOPs, steps, memory of weights and activations. Assumed: peak and price of"
    " the GPU (dated tables in the package), the share of the peak that is reached (from published speeds, by"
    " size of a micro-batch), and the start. --calibrate on the rented card measures it first, and keeps it."
    " --json names the source of every figure."
)
MEASURED = (
    "Computed: parameters, slots, FLOPs, steps, memory of weights and activations. Measured: the speed of"
    " this machine, taken to be the same for all ways to train. Assumed: the price, and all that is said of"
    " other cards. --json names the source of every figure."
)


def capacities_table(cost: Cost) -> RenderableType:
    curve = cost.curve
    last = UNITS[cost.counts_in]
    table = plain_table("Other lengths of a row", "length", "rows", "full", "cut", "memory", last, "")
    table.columns[0].justify, table.columns[0].no_wrap = "right", True
    table.columns[-1].justify, table.columns[-1].no_wrap = "left", False
    for point in curve.points:
        marks = [
            word
            for word, holds in (
                ("this run", point.capacity == curve.current),
                ("recommended", point.capacity == curve.recommended),
                ("does not fit", point.fits is False),
                ("checkpointing", point.checkpointing and point.fits is not False),
            )
            if holds
        ]
        table.add_row(
            f"{point.capacity:,}",
            f"{point.rows.value:,}",
            share(point.fill.value, 1),
            share(point.truncated_share.value, 1, 2),
            f"{point.memory.value:.1f} GiB" if point.memory else "",
            measured(cost, point),
            Text(", ".join(marks), style=QUIET),
        )
    return Group(table, Constrain(Text(curve_words(curve), style=QUIET), READABLE))


def cards_table(cost: Cost) -> Table:
    table = plain_table("The packed run on other cards, at the table's prices", "", "GPU time", "money", "")
    table.columns[-1].justify = "left"
    for card in cost.cards:
        marks = ["this run"] * card.chosen + ["checkpointing"] * card.checkpointing
        marks += ["measured"] * (card.hours.source == "measured") + ["no bf16"] * (card.dtype == "fp16")
        table.add_row(
            Text(one_line(card.key, 40)),
            hours(card.hours),
            money(card.money),
            Text(", ".join(marks), style=QUIET),
            style="bold" if card.chosen else "",
        )
    return table


def services_table(cost: Cost) -> Table:
    table = plain_table("Managed fine-tuning, billed by the token", "", "as it came", "cleaned")
    for service in cost.api:
        name = f"{service.provider}, {service.model}"
        prices = money(service.as_it_came), money(service.cleaned)
        table.add_row(Text(one_line(name, 80)), *prices, style="bold" if service.chosen else "")
    return table


def memory_table(cost: Cost) -> Table:
    """Parts of the peak for one row, largest first."""
    parts = cost.memory.parts
    table = plain_table("GPU memory, one row at once", "", "GiB")
    for name, gib in parts.shown():
        table.add_row(PARTS[name], f"{gib:.2f}")
    table.add_row("together, with tokpack train's loss", f"{parts.total.value:.2f}", style="bold")
    table.add_row("where all logits are held", f"{cost.memory.whole_logits.value:.2f}", style=QUIET)
    return table
