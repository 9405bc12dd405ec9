"""Text from data, made harmless before a person sees it: in the terminal, in a page, in a chart."""

from __future__ import annotations

import unicodedata

STEERING = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Unicode categories that steer a terminal or reorder a line: controls, format and bidirectional marks,
private use, surrogates, line and paragraph separators."""


def printable(text: str) -> str:
    """Control and bidirectional characters made visible; line breaks and tabs stay.

    >>> printable("\\x1b[31mred")
    '\\\\u001b[31mred'
    """
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in STEERING else _escaped(c) for c in text)


def one_line(text: str, limit: int = 120) -> str:
    """A name from data (file, reason, tokenizer) for a table's cell: printable, without line breaks, its
    middle cut out where it is longer than `limit` characters."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[len(text) - limit + limit // 2 + 1 :]}"
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def snippet(text: str, limit: int = 280) -> str:
    """The start of a document, printable."""
    text = text.strip()
    return printable(text if len(text) <= limit else text[:limit].rstrip() + " …")


def _escaped(c: str) -> str:
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
