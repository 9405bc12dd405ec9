"""Reports and packed datasets in the terminal: the bill on the first screen, details after it.

No frames and few colors: what is piped into a file or read at 80 columns is the same text. Whatever comes
from data passes `one_line`, and goes into `Text` so that no markup in it counts.
"""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from tokpack.on_disk.ledger import DocumentSums, Ledger
from tokpack.report.bill.cost_terminal import cost_bill, cost_details
from tokpack.report.data.data_tables import (
    by_table,
    drops_table,
    files_table,
    ledger_sums,
    longest_table,
    sources_table,
    truncation_table,
)
from tokpack.report.data.data_words import (
    cut_words,
    dealt_words,
    language_words,
    mixed_words,
    parted_words,
    ranks_words,
    rules_without_hits,
    vocabulary_words,
)
from tokpack.report.terminal_tables import (
    FACTS,
    GOOD,
    QUIET,
    READABLE,
    WIDE,
    DrawnTable,
    FactsGrid,
    draw_sums,
    plain_table,
    spaced,
)
from tokpack.report.values import Drop, Figures, Lengths, PlanFigures, SlotLine
from tokpack.report.words import (
    SLOT,
    bound_words,
    counted_documents,
    counters,
    labels_words,
    make_bill,
    share,
)
from tokpack.schema import is_preference
from tokpack.settings.plain import from_plain
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line, snippet

MOST_ROWS, MOST_LONGEST = 20, 5
MOST_BAR, LEAST_BAR = 14, 6
BAR = "\N{BLACK SQUARE}"


def report_view(figures: Figures, model: str = "") -> RenderableType:
    """The bill first, details after. `model`: what `tokpack train --model` takes here."""
    cost = figures.cost
    parts = [report_head(figures), *([cost_bill(cost, model)] if cost else []), slots_bill(figures)]
    parts += [Constrain(FactsGrid(_report_facts(figures)), FACTS)]
    parts.append(left_out(figures.drops, figures.ledger.tokens.tokenized, rules_without_hits(figures)))
    parts += [SlotsTable(figures.slots), *_tables(figures), ledger_table(figures.ledger)]
    parts += cost_details(cost) if cost else []
    if notes := _notes(figures):
        parts.append(_listed(notes))
    return spaced(parts)


def _tables(figures: Figures) -> list[RenderableType]:
    tables = [
        files_table(figures).first(MOST_ROWS) if len(figures.ledger.sources) > 1 else None,
        sources.first(MOST_ROWS) if (sources := sources_table(figures)) else None,
        by.first(MOST_ROWS) if (by := by_table(figures)) else None,
    ]
    if figures.truncation and not figures.cost:
        tables.append(truncation_table(figures.truncation, figures.capacity))
    if figures.longest:
        tables.append(longest_table(figures.longest[:MOST_LONGEST]))
    return [DrawnTable(table) for table in tables if table]


def packed_panel(manifest: dict[str, Any]) -> RenderableType:
    """One screen about a finished packed dataset."""
    plan = from_plain(PlanFigures, manifest["plan"], "plan")
    tokens, held = manifest["tokens"], counted_documents(manifest["documents"], is_preference(manifest))
    title = Text(f"{held} packed into {counted(manifest['rows'], 'row')}", style=f"bold {GOOD}")
    facts = [
        ("rows", _rows_fact(manifest["capacity"], plan)),
        ("ranks", dealt_words(plan.dealt) if plan.dealt else ""),
        ("mix", mixed_words(plan.mixed) if plan.mixed else ""),
        ("parts", parted_words(plan.parted, plan.rows) if plan.parted else ""),
        ("tokens", f"{tokens:,}, {trained_words(manifest['trained_tokens'], tokens)}"),
        ("tokenizer", one_line(str(manifest["tokenizer"]["name"]))),
    ]
    return spaced([title, FactsGrid(facts), ledger_table(Ledger.read(manifest["ledger"]))])


def report_head(figures: Figures) -> Text:
    """One quiet line: what was looked at, and how."""
    names = [source.name for source in figures.inputs]
    name = one_line(names[0], 40) if len(names) == 1 else counted(len(names), "file")
    tokenizer = one_line(figures.tokenizer, 40)
    held = counted_documents(figures.ledger.documents.read, figures.is_preference)
    return Text(
        f"{held} in {name}, tokenizer {tokenizer}, rows of {figures.capacity:,} tokens",
        style=QUIET,
    )


def slots_bill(figures: Figures, explained: bool = True) -> RenderableType:
    """Token slots, from the way data usually comes to packed rows."""
    bill = make_bill(figures)
    head = Text(bill.headline, style=f"bold {GOOD}" if bill.after < bill.before else "bold")
    parts: list[RenderableType] = [head, Text(bill.explanation)]
    parts += [Text(SLOT, style=QUIET)] if explained else []
    if bill.lines:
        grid = Grid.grid(padding=(0, 2))
        grid.add_column()
        grid.add_column(justify="right")
        (first, before), *changes, (last, after) = bill.lines
        grid.add_row(first, f"{before:,}")
        for label, slots in changes:
            grid.add_row(label, Text(f"{slots:+,}", style=GOOD if slots < 0 else ""))
        grid.add_row("", Text("-" * len(f"{before:,}"), style=QUIET))
        grid.add_row(last, Text(f"{after:,}"), style="bold")
        parts += [Text(), Padding(grid, (0, 0, 0, 2))]
    return Constrain(Group(*parts), READABLE)


def _report_facts(figures: Figures) -> list[tuple[str, str]]:
    documents, tokens, trained = figures.ledger.documents, figures.ledger.tokens, figures.ledger.trained
    plan = figures.plan
    fates = [f"{documents.read:,} read", f"{documents.kept:,} kept", f"{documents.left_out:,} left out"]
    fates += [f"{documents.held_out:,} held out"] if documents.held_out else []
    fates += [f"{documents.quarantined:,} unreadable"] if documents.quarantined else []
    return [
        ("documents", ", ".join(fates)),
        ("pairs", _pairs(documents) if figures.is_preference else ""),
        ("labels", labels_words(figures.labels) if figures.labels else ""),
        (
            "tokens",
            f"{tokens.tokenized:,} in all, {tokens.packed:,} packed, "
            + trained_words(trained.trained, trained.packed),
        ),
        ("rows", _rows_fact(figures.capacity, plan)),
        ("parts", parted_words(plan.parted, plan.rows) if plan.parted else ""),
        ("lengths", _lengths(figures.lengths) if figures.lengths.documents else ""),
        ("cut", cut_words(figures)),
        ("vocabulary", vocabulary_words(figures.vocabulary) if figures.vocabulary else ""),
        ("languages", language_words(figures.languages) if figures.languages else ""),
        ("ranks", ranks_words(figures.ranks) if figures.ranks else ""),
    ]


def _pairs(documents: DocumentSums) -> str:
    return f"{documents.read // 2:,} read, {documents.kept // 2:,} kept; both answers, or neither"


def trained_words(trained: int, packed: int) -> str:
    """`61.2% of them trained`."""
    return f"{share(trained, packed)} of them trained"


def _rows_fact(capacity: int, plan: PlanFigures) -> str:
    if not plan.rows:
        return "none"
    return f"{plan.rows:,} of {capacity:,} tokens, {share(plan.fill, 1, 2)} full; {bound_words(plan)}"


def _lengths(lengths: Lengths) -> str:
    return (
        f"half have up to {lengths.p50:,} tokens, 90% up to {lengths.p90:,},"
        f" 99% up to {lengths.p99:,}, longest {lengths.max:,}"
    )


class SlotsTable:
    """Token slots of the same training, unpacked and packed; rows, tokens and bars where there is room."""

    def __init__(self, lines: list[SlotLine]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The longest bars with which no name is broken, if there are any."""
        wide = options.max_width >= WIDE
        unbroken = options.update(max_width=2 * options.max_width)
        for bar in range(MOST_BAR, LEAST_BAR - 1, -1):
            table = self._table(wide, bar)
            if Measurement.get(console, unbroken, table).maximum <= options.max_width:
                break
        else:
            table = self._table(wide, MOST_BAR)
        yield table

    def _table(self, wide: bool, bar_width: int) -> Grid:
        columns = ("rows", "tokens", "slots", "full", "steps", "saved", "") if wide else ("slots", "full")
        table = plain_table("Token slots per epoch", "training on", *columns)
        longest = max((line.slots for line in self.lines), default=0) or 1
        for line in self.lines:
            cells: list[RenderableType] = [f"{line.slots:,}", share(line.fill, 1)]
            if wide:
                bar = Text(BAR * round(bar_width * line.slots / longest), style=GOOD)
                saved = share(line.saved, self.lines[1].slots) if line.saved > 0 else ""
                cells = [f"{line.rows:,}", f"{line.tokens:,}", *cells]
                cells += [f"{line.steps:,}", saved, bar]
            table.add_row(Text(line.name), *cells, style="bold" if line is self.lines[-1] else "")
        return table


def ledger_table(ledger: Ledger) -> RenderableType:
    """The sums, one line each."""
    return draw_sums("Ledger", ledger_sums(ledger))


def left_out(drops: list[Drop], tokenized: int, not_found: list[str]) -> RenderableType:
    """Reason, how much, what it means; then the start of one such document each."""
    if not drops:
        return Text("Nothing was left out.")
    parts: list[RenderableType] = [DrawnTable(drops_table(drops, tokenized, MOST_ROWS))]
    if not_found:
        parts.append(Constrain(Text(f"looked for, not found: {', '.join(not_found)}", style=QUIET), READABLE))
    examples = plain_table("Such as", "", "", words=2)
    examples.expand, examples.columns[1].ratio = True, 1
    for drop in drops[:MOST_ROWS]:
        for text in drop.examples[:1]:
            where = drop.places[0].place if drop.places else ""
            words = one_line(f"{where} {snippet(text)}".strip(), 400)
            start = Text(words, style=QUIET, no_wrap=True, overflow="ellipsis")
            examples.add_row(Text(one_line(drop.reason, 24)), start)
    return Group(*parts, Text(), examples) if examples.row_count else Group(*parts)


def _notes(figures: Figures) -> list[str]:
    counted_notes = counters(figures.counters, figures.near_dup)
    return make_bill(figures).notes + [f"{number:,} {one_line(text)}" for number, text in counted_notes]


def _listed(notes: list[str]) -> RenderableType:
    grid = Grid.grid(padding=(0, 1))
    for note in notes:
        grid.add_row("-", Text(note))
    return Constrain(Group(Text("Notes", style="bold"), grid), READABLE)


def to_html(renderable: Any, width: int = 110) -> str:
    """A rich renderable as HTML, for notebooks."""
    console = Console(record=True, width=width, file=io.StringIO(), force_jupyter=False)
    console.print(renderable)
    return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.2">{code}</pre>')
