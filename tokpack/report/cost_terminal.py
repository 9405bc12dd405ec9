"""The bill before training in the terminal: the first screen, and the tables behind it."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from tokpack.report.cost_words import PARTS, cost_words, curve_words, flops, hours, money
from tokpack.report.safe import one_line
from tokpack.report.tables import BAD, GOOD, QUIET, READABLE, facts_grid, plain_table
from tokpack.report.words import share


def cost_bill(cost: dict[str, Any]) -> RenderableType:
    """What it costs, what to do, does it fit, how to run it."""
    words = cost_words(cost)
    head = [
        Text(words.headline, style=f"bold {GOOD}"),
        Text(words.explanation),
        Text(words.setting, style=QUIET),
    ]
    facts = facts_grid([("fits", words.fit), ("steps", words.steps), ("train with", words.command)])
    warnings = [Text(f"! {warning}", style=BAD) for warning in words.warnings]
    parts = [Constrain(Group(*head), READABLE), ways_table(cost), advice_table(cost), facts]
    return Group(*(item for part in parts[:-1] for item in (part, Text())), facts, *warnings)


def ways_table(cost: dict[str, Any]) -> Table:
    """The same training in several ways: slots, GPU time, money."""
    priced = cost["estimate"] is not None
    last = ("GPU time", "money") if priced else ("work",)
    table = plain_table("The same data, trained in other ways", "", "slots an epoch", "full", *last)
    for way in cost["comparison"]:
        work = [hours(way["hours"]), money(way["money"])] if priced else [flops(way["flops"])]
        table.add_row(
            Text(way["name"]),
            f"{way['slots']['value']:,}",
            share(way["fill"]["value"], 1),
            *work,
            style="bold" if way is cost["comparison"][-1] else "",
        )
    return table


def advice_table(cost: dict[str, Any]) -> RenderableType:
    """What to do, most money first, and the flag that does it."""
    if not cost["recommendations"]:
        return Text("Nothing to change: these settings are the cheapest of those looked at.")
    table = plain_table("What to do", "", "", "saves", "", words=2)
    table.columns[2].no_wrap = True
    table.columns[3].justify = "left"
    table.columns[3].no_wrap = False
    for number, advice in enumerate(cost["recommendations"], 1):
        saves = advice["saves"]
        saved = money(saves) if saves and saves["value"] > 0 else ""
        if saves is None and advice["saved_share"] > 0:
            saved = f"{advice['saved_share']:.0%}"
        what = Text(f"{number} {one_line(advice['do'], 120)}", style="bold" if advice["urgent"] else "")
        table.add_row(
            what, Text(one_line(advice["flag"], 60)), saved, Text(one_line(advice["why"], 300), style=QUIET)
        )
    return table


def cost_details(cost: dict[str, Any]) -> list[RenderableType]:
    """Capacities, cards, services, memory, and where the figures come from."""
    parts: list[RenderableType] = [capacities_table(cost)]
    if cost["cards"]:
        parts.append(cards_table(cost))
    if cost["api"]:
        parts.append(services_table(cost))
    return [*parts, memory_table(cost), Constrain(Text(SOURCES, style=QUIET), READABLE)]


SOURCES = (
    "Computed: parameters, slots, FLOPs, steps, memory of weights and activations. Assumed: peak and price of"
    " the GPU (dated tables in the package), the share of the peak that is reached, the same for all ways to"
    " train, and the overhead of NF4. --json names the source of every figure."
)


def capacities_table(cost: dict[str, Any]) -> RenderableType:
    curve = cost["curve"]
    priced = cost["estimate"] is not None
    columns = ("rows", "full", "tokens cut", "memory", "money" if priced else "work")
    table = plain_table("Other lengths of a row", "tokens a row", *columns, "")
    table.columns[-1].justify = "left"
    for point in curve["points"]:
        marks = [
            word
            for word, holds in (
                ("this run", point["capacity"] == curve["current"]),
                ("recommended", point["capacity"] == curve["recommended"]),
                ("does not fit", point["fits"] is False),
                ("checkpointing", point["checkpointing"] and point["fits"] is not False),
            )
            if holds
        ]
        table.add_row(
            f"{point['capacity']:,}",
            f"{point['rows']['value']:,}",
            share(point["fill"]["value"], 1),
            share(point["truncated_share"]["value"], 1, 2),
            f"{point['memory']['value']:.1f} GiB" if point["memory"] else "",
            money(point["money"]) if priced else flops(point["flops"]),
            Text(", ".join(marks), style=QUIET),
        )
    return Group(table, Constrain(Text(curve_words(curve), style=QUIET), READABLE))


def cards_table(cost: dict[str, Any]) -> Table:
    table = plain_table("The packed run on other cards, at list prices", "", "GPU time", "money", "")
    table.columns[-1].justify = "left"
    for card in cost["cards"]:
        marks = ["this run"] * card["chosen"] + ["checkpointing"] * card["checkpointing"]
        table.add_row(
            Text(one_line(card["key"], 40)),
            hours(card["hours"]),
            money(card["money"]),
            Text(", ".join(marks), style=QUIET),
            style="bold" if card["chosen"] else "",
        )
    return table


def services_table(cost: dict[str, Any]) -> Table:
    table = plain_table("Managed fine-tuning, billed by the token", "", "as it came", "cleaned")
    for service in cost["api"]:
        name = f"{service['provider']}, {service['model']}"
        table.add_row(Text(one_line(name, 80)), money(service["as_it_came"]), money(service["cleaned"]))
    return table


def memory_table(cost: dict[str, Any]) -> Table:
    """Parts of the peak for one row, largest first."""
    parts = cost["memory"]["parts"]
    table = plain_table("GPU memory, one row at once", "", "GiB")
    for name in sorted(PARTS, key=lambda name: -parts[name]["value"]):
        if parts[name]["value"] > 0:
            table.add_row(PARTS[name], f"{parts[name]['value']:.2f}")
    table.add_row("together", f"{parts['total']['value']:.2f}", style="bold")
    return table
