"""Reports, packed datasets and verifications in a notebook: the page's own tables and charts, in a frame.

The frame keeps the page's style and script apart from the notebook's; nothing is fetched.
"""

from __future__ import annotations

from html import escape
from typing import Any

from tokpack.on_disk.ledger import Ledger
from tokpack.report.checks import checks_table
from tokpack.report.data.data_page import MOST_REASONS
from tokpack.report.data.data_tables import drops_table, ledger_sums
from tokpack.report.html import environment, page, style
from tokpack.report.values import Drop, Figures
from tokpack.report.words import share
from tokpack.terminal.activity import counted

PAGE_HEIGHT, PACKED_HEIGHT, CHECKS_HEIGHT = 640, 520, 420
"""Pixels."""


def framed(document: str, height: int) -> str:
    """A whole HTML document as an element of a notebook's output."""
    source = escape(document, quote=True)
    return (
        f'<iframe sandbox="allow-scripts" srcdoc="{source}" '
        f'style="width:100%;height:{height}px;border:1px solid #8884;border-radius:6px"></iframe>'
    )


def report_frame(figures: Figures) -> str:
    """The page of a report."""
    return framed(page(figures), PAGE_HEIGHT)


def checks_frame(verification: Any) -> str:
    """What `verify` looked at."""
    template = environment().get_template("checks.html.j2")
    return framed(template.render(style=style(), checks=checks_table(verification)), CHECKS_HEIGHT)


def packed_frame(manifest: dict[str, Any]) -> str:
    """A packed dataset: its rows, what was left out and the ledger. No charts: those take seconds."""
    ledger = Ledger.read(manifest["ledger"])
    documents, tokens, trained = ledger.documents, ledger.tokens, ledger.trained
    rows = f"{counted(manifest['rows'], 'row')} of {manifest['capacity']:,} tokens"
    full = share(tokens.packed, manifest["rows"] * manifest["capacity"], 2)
    facts = [
        (f"{documents.kept:,}", "documents kept", f"of {documents.read:,} read"),
        (f"{tokens.packed:,}", "tokens packed", f"of {tokens.tokenized:,} in the data"),
        (share(trained.trained, trained.packed), "of them trained", "the rest is read, not learned"),
        (full, "of each row used", rows),
    ]
    drops = [
        Drop(reason=reason, documents=count, tokens=tokens.dropped.get(reason, 0), examples=[])
        for reason, count in sorted(documents.dropped.items(), key=lambda item: -item[1])
    ]
    template = environment().get_template("packed.html.j2")
    table = drops_table(drops, tokens.tokenized, MOST_REASONS) if drops else None
    sums = ledger_sums(ledger)
    return framed(template.render(style=style(), facts=facts, drops=table, sums=sums), PACKED_HEIGHT)
