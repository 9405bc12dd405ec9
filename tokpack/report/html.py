"""The report as one page: it needs no network, no server and no script to be read.

Text from data is escaped by Jinja after `printable`; a content security policy allows the one script of
ours and nothing else, so that even a hole in the escaping would run nothing.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tokpack.report import charts
from tokpack.report.bill.cost_page import cost_view
from tokpack.report.data.data_page import data_view
from tokpack.report.data.data_words import parted_words
from tokpack.report.values import Figures
from tokpack.report.words import (
    PROOFS,
    SLOT,
    counted_documents,
    gap_words,
    labels_words,
    make_bill,
    share,
)
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line, printable

HERE = Path(__file__).parent


def page(figures: Figures) -> str:
    """The page of a report, under 2 MB whatever the data; equal figures give equal pages."""
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ledger, plan = figures.ledger, figures.plan
    slots = ledger.slots
    return environment().get_template("page.html.j2").render(
        style=style,
        script=script,
        script_hash=f"sha256-{digest}",
        version=figures.tokpack_version,
        tokenizer=one_line(figures.tokenizer, 80),
        inputs=_inputs(figures),
        capacity=figures.capacity,
        cost=cost_view(figures.cost),
        bill=make_bill(figures),
        slot=SLOT,
        documents=ledger.documents,
        read=counted_documents(ledger.documents.read, figures.is_preference),
        kept_about=_kept_about(figures),
        tokens=ledger.tokens,
        trained_share=share(ledger.trained.trained, ledger.trained.packed),
        fill=share(slots.packed, slots.total, 2) if slots else "",
        plan=plan,
        gap=gap_words(plan.gap),
        parts=parted_words(plan.parted, plan.rows) if plan.parted else "",
        proof=PROOFS[plan.bound_kind],
        lengths=figures.lengths,
        charts=_charts(figures),
        more=data_view(figures),
    )  # fmt: skip


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Templates in which every value is escaped and made printable, and an unknown name is an error."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"n": number, "change": change, "svg": Markup, "trusted": Markup}
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment


def _shown(value: Any) -> Any:
    """Every value on its way into the page; Markup is our own and stays."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def style() -> str:
    """The page's style sheet."""
    return _asset("page.css")


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def number(value: int) -> str:
    return f"{value:,}"


def change(value: int) -> str:
    """A signed number with a true minus."""
    return f"{value:+,}".replace("-", "\N{MINUS SIGN}")


def _inputs(figures: Figures) -> str:
    names = [source.name for source in figures.inputs]
    return one_line(names[0], 80) if len(names) == 1 else counted(len(names), "file")


def _kept_about(figures: Figures) -> str:
    documents = figures.ledger.documents
    pairs = f", in {counted(documents.kept // 2, 'pair')}" if figures.is_preference else ""
    labels = f"; {labels_words(figures.labels)}" if figures.labels else ""
    return f"of {documents.read:,} read{pairs}{labels}"


def _charts(figures: Figures) -> dict[str, charts.Chart]:
    trained = figures.ledger.trained
    drawn = {
        "slots": charts.slots_chart(figures.slots),
        "tokens": charts.tokens_chart(figures.ledger.tokens),
        "trained": charts.split_chart(
            (trained.trained, "trained"), (trained.masked, "masked"), "Packed tokens: trained and masked"
        ),
    }
    if figures.lengths.documents:
        drawn["lengths"] = charts.lengths_chart(figures.lengths, figures.capacity)
    return drawn
