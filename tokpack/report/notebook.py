"""Reports, packed datasets and verifications in a notebook: the page's own tables and charts, in a frame.

The frame keeps the page's style and script apart from the notebook's; nothing is fetched.
"""

from __future__ import annotations

from html import escape
from typing import Any

from tokpack.reasons import words_of
from tokpack.report.html import environment, page, style, sums
from tokpack.report.words import counted, share

PAGE_HEIGHT, PACKED_HEIGHT, CHECKS_HEIGHT = 640, 520, 420
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
    """A packed dataset: its rows, what was left out and the ledger. No charts: those take seconds."""
    ledger = manifest["ledger"]
    documents, tokens, trained, slots = (ledger[key] for key in ("documents", "tokens", "trained", "slots"))
    facts = [
        (f"{documents['kept']:,}", "documents kept", f"of {documents['read']:,} read"),
        (f"{tokens['packed']:,}", "tokens packed", f"of {tokens['tokenized']:,} in the data"),
        (share(trained["trained"], trained["packed"]), "of them trained", "the rest is read, not learned"),
        (
            share(slots["packed"], slots["total"], 2),
            "of each row used",
            f"{counted(manifest['rows'], 'row')} of {manifest['capacity']:,} tokens",
        ),
    ]
    dropped = [
        {
            "reason": reason,
            "meaning": words_of(reason),
            "documents": count,
            "tokens": tokens["dropped"].get(reason, 0),
        }
        for reason, count in sorted(documents["dropped"].items(), key=lambda item: -item[1])
    ]
    template = environment().get_template("packed.html.j2")
    return framed(
        template.render(
            style=style(),
            facts=facts,
            dropped=dropped,
            ledger=sums(ledger),
        ),
        PACKED_HEIGHT,
    )
