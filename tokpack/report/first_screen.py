"""The report on one screen of 24 lines and 100 columns: the bill, what to do, what was left out, where the
rest is. `report_view` prints everything."""

from __future__ import annotations

from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from tokpack.printable import one_line
from tokpack.reasons import words_of
from tokpack.report.cost_figures import Advice, Cost, cost_of
from tokpack.report.cost_words import cost_words, saves_words
from tokpack.report.data_words import cut_words
from tokpack.report.groups import grouping_words
from tokpack.report.tables import BAD, FACTS, GOOD, QUIET, facts_grid, plain_table
from tokpack.report.terminal import report_head, slots_bill, trained_words
from tokpack.report.words import counted, left_out, share

MOST_ACTIONS, MOST_REASONS = 3, 3
REST = "--full prints the rest, --html report.html draws it, --json has every figure"


class FirstScreen:
    """The bill, the three best actions, what was left out in one table, and where the rest is."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        data, cost = self.data, cost_of(self.data)
        yield report_head(data)
        if cost:
            yield from _bill(cost)
        else:
            yield Text()
            yield slots_bill(data, explained=False)
        yield Text()
        yield _left_out(data)
        yield Text()
        yield Constrain(facts_grid(_facts(data, cost)), FACTS)
        rest = f"--full prints the rest, {offer}" if (offer := grouping_words(data)) else REST
        yield Text(rest, style=QUIET)


def _bill(cost: Cost) -> list[RenderableType]:
    words = cost_words(cost)
    fits = cost.memory.fits is not False
    parts: list[RenderableType] = [
        Text(words.headline, style=f"bold {GOOD if fits else BAD}"),
        Constrain(Text(words.explanation), FACTS),
        Text(words.setting, style=QUIET, no_wrap=True, overflow="ellipsis"),
        Text(),
    ]
    if cost.recommendations:
        parts += [actions_table(cost.recommendations[:MOST_ACTIONS])]
    return parts


def actions_table(actions: list[Advice]) -> Table:
    """What to do, one line each: the flag that does it, and what it saves."""
    table = plain_table("", "what to do", "flag", "saves", "why", words=2)
    table.title = None
    table.columns[3].justify = "left"
    _fill_the_line(table)
    for action in actions:
        what = Text(one_line(action.do, 40), style="bold" if action.urgent else "")
        why = Text(one_line(action.why, 300), style=QUIET, no_wrap=True, overflow="ellipsis")
        table.add_row(what, Text(one_line(action.flag, 40)), saves_words(action), why)
    return table


def _left_out(data: dict[str, Any]) -> RenderableType:
    """The reasons with most tokens, and the others together."""
    drops = data["drops"]
    if not drops:
        return Text("Nothing was left out.")
    table = plain_table("", "left out", "documents", "tokens")
    table.title = None
    table.add_column("")
    _fill_the_line(table)
    most = MOST_REASONS + (len(drops) == MOST_REASONS + 1)
    for drop in drops[:most]:
        meaning = Text(words_of(drop["reason"]), style=QUIET, no_wrap=True, overflow="ellipsis")
        reason = Text(one_line(drop["reason"], 32))
        table.add_row(reason, f"{drop['documents']:,}", f"{drop['tokens']:,}", meaning)
    if rest := drops[most:]:
        sums = [f"{sum(drop[key] for drop in rest):,}" for key in ("documents", "tokens")]
        table.add_row(f"{len(rest)} more reasons", *sums)
    return table


def _fill_the_line(table: Table) -> None:
    """The last column gets what the others leave, and is cut there: a line of the table is one of the
    screen."""
    for column in table.columns:
        column.no_wrap = True
    table.expand, table.columns[-1].ratio, table.columns[-1].overflow = True, 1, "ellipsis"


def _facts(data: dict[str, Any], cost: Cost | None) -> list[tuple[str, str]]:
    documents, tokens, trained = (data["ledger"][key] for key in ("documents", "tokens", "trained"))
    plan = data["plan"]
    kept = f"{documents['kept']:,} of {documents['read']:,} documents, {tokens['packed']:,} tokens"
    if plan["rows"]:
        kept += f" ({trained_words(trained['trained'], trained['packed'])})"
        kept += f", {counted(plan['rows'], 'row')} {share(plan['fill'], 1, 2)} full"
    facts = [("kept", kept)]
    if cut := cut_words(data):
        facts.append(("cut", cut))
    if cost:
        words = cost_words(cost)
        facts += [("fits", words.fit.partition(";")[0]), ("train with", words.command)]
    elif left_out(data) < documents["read"]:
        facts.append(("next", "--model NAME --gpu a10 says what training costs, and with which settings"))
    return facts


def first_screen(data: dict[str, Any]) -> Group:
    """What `tokpack analyze` prints."""
    return Group(FirstScreen(data))
