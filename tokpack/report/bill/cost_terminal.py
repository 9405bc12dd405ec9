"""The bill before training in the terminal: the first screen, and the tables behind it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.table import Table as Grid
from rich.text import Text

from tokpack.report.bill.cost_figures import Cost
from tokpack.report.bill.cost_tables import (
    advice_table,
    cards_table,
    lengths_table,
    services_table,
    ways_table,
)
from tokpack.report.bill.cost_words import NOTHING, PARTS, cost_words, curve_words
from tokpack.report.terminal_tables import (
    BAD,
    FACTS,
    GOOD,
    QUIET,
    READABLE,
    Command,
    DrawnTable,
    FactsGrid,
    plain_table,
    spaced,
)


def cost_bill(cost: Cost, model: str = "") -> RenderableType:
    """What it costs, what to do, does it fit, how to run it."""
    words = cost_words(cost, model)
    head = [
        Text(words.headline, style=f"bold {GOOD}"),
        Text(words.explanation),
        Text(words.setting, style=QUIET),
    ]
    lines = [("fits", words.fit), ("or by API", words.service), ("steps", words.steps)]
    facts = FactsGrid([*lines, ("train with", Command(words.command))])
    warnings = [Text(f"! {warning}", style=BAD) for warning in words.warnings]
    parts: list[RenderableType] = [Constrain(Group(*head), READABLE), DrawnTable(ways_table(cost))]
    parts.append(DrawnTable(advice_table(cost.recommendations)) if cost.recommendations else Text(NOTHING))
    return Group(spaced(parts), Constrain(Group(facts, *warnings), FACTS))


def cost_details(cost: Cost) -> list[RenderableType]:
    """Capacities, cards, services, memory, and where the figures come from."""
    words = Constrain(Text(curve_words(cost.curve), style=QUIET), READABLE)
    parts: list[RenderableType] = [Group(DrawnTable(lengths_table(cost)), words)]
    parts += [DrawnTable(cards_table(cost.cards))] if cost.cards else []
    parts += [DrawnTable(services_table(cost.api))] if cost.api else []
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


def memory_table(cost: Cost) -> Grid:
    """Parts of the peak for one row, largest first."""
    parts = cost.memory.parts
    table = plain_table("GPU memory, one row at once", "", "GiB")
    for name, gib in parts.shown():
        table.add_row(PARTS[name], f"{gib:.2f}")
    table.add_row("together, with tokpack train's loss", f"{parts.total.value:.2f}", style="bold")
    table.add_row("where all logits are held", f"{cost.memory.whole_logits.value:.2f}", style=QUIET)
    return table
