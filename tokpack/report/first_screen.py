"""The report on one screen of 24 lines and 80 columns: the bill, what to do, what was left out, where the
rest is. `report_view` prints everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.text import Text

from tokpack.report.bill.cost_figures import Cost
from tokpack.report.bill.cost_tables import advice_table
from tokpack.report.bill.cost_words import cost_words
from tokpack.report.data.data_tables import drops_table
from tokpack.report.data.data_words import cut_words, grouping_words
from tokpack.report.terminal import report_head, slots_bill, trained_words
from tokpack.report.terminal_tables import BAD, FACTS, GOOD, QUIET, DrawnTable, FactsGrid, PastedCommand
from tokpack.report.values import Figures
from tokpack.report.words import share
from tokpack.terminal.activity import counted

MOST_ACTIONS, MOST_REASONS = 3, 3
REST = "--full prints the rest, --html report.html draws it, --json has every figure"


def first_screen(figures: Figures, model: str = "") -> Group:
    """What `tokpack analyze` prints: the bill, the three best actions, what was left out in one table, and
    where the rest is. `model`: what `tokpack train --model` takes here."""
    return Group(*_parts(figures, model))


def _parts(figures: Figures, model: str) -> Iterator[RenderableType]:
    head = report_head(figures)
    head.no_wrap, head.overflow = True, "ellipsis"
    yield head
    if figures.cost:
        yield from _bill(figures.cost)
    else:
        yield Text()
        yield slots_bill(figures, explained=False)
    yield Text()
    yield _left_out(figures)
    yield Text()
    yield Constrain(FactsGrid(_facts(figures)), FACTS)
    if figures.cost:
        yield Constrain(PastedCommand(cost_words(figures.cost, model).command), FACTS)
    rest = f"--full prints the rest, {offer}" if (offer := grouping_words(figures)) else REST
    yield Text(rest, style=QUIET)


def _bill(cost: Cost) -> Iterator[RenderableType]:
    words = cost_words(cost)
    fits = cost.memory.fits is not False
    yield Text(words.headline, style=f"bold {GOOD if fits else BAD}")
    yield Constrain(Text(words.explanation), FACTS)
    yield Text(words.setting, style=QUIET, no_wrap=True, overflow="ellipsis")
    yield Text()
    if cost.recommendations:
        table = advice_table(cost.recommendations[:MOST_ACTIONS])
        yield DrawnTable(table, one_line=True)


def _left_out(figures: Figures) -> RenderableType:
    """The reasons with most tokens, and the others together."""
    if not figures.drops:
        return Text("Nothing was left out.")
    table = drops_table(figures.drops, figures.ledger.tokens.tokenized, MOST_REASONS)
    return DrawnTable(replace(table, title=""), one_line=True)


def _facts(figures: Figures) -> list[tuple[str, str]]:
    documents, tokens, trained = figures.ledger.documents, figures.ledger.tokens, figures.ledger.trained
    plan, cost = figures.plan, figures.cost
    kept = f"{documents.kept:,} of {counted(documents.read, 'document')}, {counted(tokens.packed, 'token')}"
    if plan.rows:
        kept += f" ({trained_words(trained.trained, trained.packed)})"
    facts = [("kept", kept), ("cut", cut_words(figures))]
    if plan.rows:
        rows = f"{plan.rows:,}, {share(plan.fill, 1, 2)} full"
        facts.append(("rows", f"{rows}; {cost_words(cost).room}" if cost else rows))
    if not cost and not figures.kind and documents.left_out < documents.read:
        facts.append(("next", "--model NAME --gpu a10 says what training costs, and with which settings"))
    return facts
