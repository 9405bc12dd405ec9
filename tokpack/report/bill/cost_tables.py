"""Tables of the bill: ways to train, what to do, settings, lengths of a row, cards, services."""

from __future__ import annotations

from tokpack.report.bill.cost_figures import Advice, Card, Cost, LengthFigures, PlannedRun, Service
from tokpack.report.bill.cost_words import UNITS, hours, measured, money, saves_words
from tokpack.report.tables import Cell, Column, Line, Table, number
from tokpack.report.words import share
from tokpack.terminal.printable import one_line


def ways_table(cost: Cost) -> Table:
    """The same training in several ways: what it takes, and what it saves of padded batches."""
    unit = UNITS[cost.counts_in]
    hourly = cost.counts_in == "money"
    columns = [Column("way to train", words=True), Column("slots", wide=True), Column("full")]
    columns += [Column("steps", wide=True), *[Column("GPU time")] * hourly, Column(unit), Column("saved")]
    lines = []
    for way in cost.comparison:
        saved = way.saved.share.value
        cells = [
            Cell(way.name),
            number(int(way.slots.value)),
            Cell(share(way.fill.value, 1), way.fill.value),
            number(int(way.steps.value)),
        ]
        cells += [Cell(hours(way.hours), way.hours.value if way.hours else 0)] * hourly
        cells.append(Cell(measured(cost, way), cost.counted(way).value))
        cells.append(Cell(f"{saved:.0%}" if saved > 0 else "", saved))
        lines.append(Line(cells, strong=way is cost.comparison[-1]))
    return Table("The same data, trained in other ways", columns, lines)


def advice_table(recommendations: list[Advice]) -> Table:
    """What to do, most money first, and the flag that does it."""
    columns = [Column("what to do", words=True), Column("flag", words=True, code=True), Column("saves")]
    lines = []
    for advice in recommendations:
        do, flag, why = (one_line(text, 300) for text in (advice.do, advice.flag, advice.why))
        saves = saves_words(advice) or ("needed" if advice.urgent else "")
        saved = advice.saves.value if advice.saves else advice.saved_share
        lines.append(Line([Cell(do, about=why), Cell(flag), Cell(saves, saved)], strong=advice.urgent))
    return Table("", columns, lines, about="why")


def settings_table(plan: PlannedRun) -> Table:
    """Batches and steps, unpacked and packed."""
    names = ("batch", "accumulation", "learning rate", "documents a step", "steps")
    ways = {
        "not packed": plan.before,
        "packed, nothing changed": plan.unchanged,
        "packed, use this": plan.use,
    }
    lines = []
    for name, way in ways.items():
        rate, documents = way.learning_rate, way.samples_per_step.value
        cells = [
            Cell(name),
            number(way.micro_batch),
            number(way.accumulation),
            Cell(f"{rate:.3g}", rate) if rate is not None else Cell(""),
            Cell(f"{documents:.1f}", documents),
            number(int(way.steps.value)),
        ]
        lines.append(Line(cells, strong=way is plan.use))
    return Table("Batches and steps", [Column("run", words=True), *map(Column, names)], lines)


def lengths_table(cost: Cost) -> Table:
    """The same run with rows of other lengths."""
    columns = [Column("tokens a row"), Column("rows"), Column("full"), Column("tokens cut")]
    columns += [*[Column("memory")] * cost.timed, Column(UNITS[cost.counts_in])]
    return Table("Other lengths of a row", columns, [_length(cost, point) for point in cost.curve.points])


def _length(cost: Cost, point: LengthFigures) -> Line:
    curve, cut, memory = cost.curve, point.truncated_share.value, point.memory
    about = {
        "this run": point.capacity == curve.current,
        "recommended": point.capacity == curve.recommended,
        "does not fit": point.fits is False,
        "checkpointing": point.checkpointing and point.fits is not False,
    }
    cells = [
        Cell(
            f"{point.capacity:,}", point.capacity, ", ".join(word for word, holds in about.items() if holds)
        ),
        number(int(point.rows.value)),
        Cell(share(point.fill.value, 1), point.fill.value),
        Cell(share(cut, 1, 2), cut),
    ]
    if cost.timed:
        cells.append(Cell(f"{memory.value:.1f} GiB", memory.value) if memory else Cell("", 0))
    return Line([*cells, Cell(measured(cost, point), cost.counted(point).value)])


def cards_table(cards: list[Card]) -> Table:
    """The packed run on other GPUs, cheapest first."""
    columns = [Column("card", words=True), Column("GPU time"), Column("money")]
    lines = []
    for card in cards:
        about = {
            "this run": card.chosen,
            "checkpointing": card.checkpointing,
            "measured": card.hours.source == "measured",
            "no bf16": card.dtype == "fp16",
        }
        cells = [
            Cell(one_line(card.key, 40), about=", ".join(word for word, holds in about.items() if holds)),
            Cell(hours(card.hours), card.hours.value),
            Cell(money(card.money), card.money.value if card.money else 0),
        ]
        lines.append(Line(cells, strong=card.chosen))
    return Table("The packed run on other cards, at the table's prices", columns, lines)


def services_table(services: list[Service]) -> Table:
    columns = [Column("service", words=True), Column("as it came"), Column("cleaned")]
    lines = []
    for service in services:
        cells = [Cell(one_line(service.provider, 40), about=one_line(service.model, 60))]
        cells += [Cell(money(price), price.value) for price in (service.as_it_came, service.cleaned)]
        lines.append(Line(cells, strong=service.chosen))
    return Table("Managed fine-tuning, billed by the token", columns, lines)
