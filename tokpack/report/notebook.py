"""Reports, packed datasets and verifications in a notebook: the page's own tables and charts, in a frame.

The frame keeps the page's style and script apart from the notebook's; nothing is fetched.
"""

from __future__ import annotations

from html import escape
from typing import Any

from tokpack.report.html import environment, page, style
from tokpack.report.words import share

PAGE_HEIGHT, CHECKS_HEIGHT = 640, 420
"""Pixels."""


def framed(document: str, height: int) -> str:
    """A whole HTML document as an element of a notebook's output."""
    source = escape(document, quote=True)
    return (
        f'<iframe sandbox="allow-scripts" srcdoc="{source}" '
        f'style="width:100%;height:{height}px;border:1px solid #8884;border-radius:6px"></iframe>'
    )


def report_frame(data: dict[str, Any]) -> str:
    """The page of a report's data."""
    return framed(page(data), PAGE_HEIGHT)


def checks_frame(verification: Any) -> str:
    """What `verify` looked at, one row a check with its faults."""
    template = environment().get_template("checks.html.j2")
    return framed(template.render(style=style(), verification=verification), CHECKS_HEIGHT)


def packed_frame(manifest: dict[str, Any]) -> str:
    """A packed dataset without its report: rows, tokens and what became of the documents."""
    ledger = manifest["ledger"]
    facts = {
        "rows": manifest["rows"],
        "tokens a row": manifest["capacity"],
        "documents": ledger["documents"]["kept"],
        "tokens": ledger["tokens"]["packed"],
        "trained": ledger["trained"]["trained"],
    }
    template = environment().get_template("packed.html.j2")
    full = share(ledger["slots"]["packed"], ledger["slots"]["total"], 2)
    return framed(template.render(style=style(), facts=facts, full=full, ledger=ledger), CHECKS_HEIGHT)
