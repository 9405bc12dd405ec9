"""What `tokpack clean` kept, in a terminal: the bill of services that count tokens, and what was left out."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from tokpack.report.bill.cost_words import counted_float, money
from tokpack.report.clean_figures import CleanBill, CleanFigures
from tokpack.report.terminal import ledger_table, left_out
from tokpack.report.terminal_tables import GOOD, QUIET, FactsGrid, plain_table, spaced
from tokpack.report.words import budget_words, counters, share
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line


def clean_view(figures: CleanFigures) -> RenderableType:
    documents, tokens = figures.ledger.documents, figures.ledger.tokens
    title = Text(f"{documents.kept:,} of {counted(documents.read, 'document')} kept", style=f"bold {GOOD}")
    about, estimates = ("about ", "; counts are estimates") if figures.estimated else ("", "")
    fewer = share(tokens.tokenized - tokens.packed, tokens.tokenized)
    facts = [
        ("tokens", f"{about}{tokens.packed:,} of {tokens.tokenized:,}: {fewer} fewer"),
        ("tokenizer", one_line(figures.tokenizer) + estimates),
        ("shape", figures.to),
        ("budget", budget_words(figures.budget) if figures.budget else ""),
    ]
    parts: list[RenderableType] = [title, FactsGrid(facts)]
    if figures.bill.services:
        parts.append(_bill(figures.bill))
    parts += [left_out(figures.drops, tokens.tokenized, []), ledger_table(figures.ledger)]
    notes = [f"{n:,} {words}" for n, words in counters(figures.counters)]
    parts += [Text("\n".join(notes), style=QUIET)] if notes else []
    return spaced(parts)


def _bill(bill: CleanBill) -> RenderableType:
    title = f"Training billed by the token, {counted_float(bill.epochs, 'epoch')}"
    table = plain_table(title, "service", "$ per million", "as it came", "kept")
    for service in bill.services:
        name = " ".join(part for part in (service.provider, service.model) if part)
        prices = (money(price) for price in (service.as_it_came, service.kept))
        table.add_row(Text(one_line(name, 60)), f"{service.usd_per_million:g}", *prices)
    return table
