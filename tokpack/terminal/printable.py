"""Text from data, made harmless before a person sees it: in the terminal, in a page, in a chart."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

SECRET = re.compile(r"(://)[^/\s@]+(?=@)|([?&][\w.~%-]+=)[^&\s]+")


def printable(text: str) -> str:
    """Whatever steers a terminal or reorders a line made visible: controls, format and bidirectional marks,
    surrogates, private and unassigned characters. Spaces, tabs and line breaks stay.

    >>> printable("\\x1b[31mred")
    '\\\\u001b[31mred'
    """
    return text if text.isprintable() else "".join(c if _harmless(c) else _escaped(c) for c in text)


def hand_over(result: object) -> None:
    """A command's answer on stdout: printable in a terminal, for a script as it is, UTF-8 or not."""
    import typer

    text = str(result)
    typer.echo(printable(text) if sys.stdout.isatty() else text.encode("utf-8", "surrogateescape"))


def hand_over_json(result: object, *, ensure_ascii: bool = False, **form: Any) -> None:
    """The same as JSON of two blanks a level; `form` as `json.dumps` takes it."""
    import json

    hand_over(json.dumps(result, ensure_ascii=ensure_ascii, indent=2, **form))


def without_secrets(text: str) -> str:
    """URLs without who asks: names and keys before the host, and values behind the question mark.

    >>> without_secrets("https://me:key@host/a.jsonl?token=1")
    'https://***@host/a.jsonl?token=***'
    """
    return SECRET.sub(lambda found: f"{found[1] or found[2]}***", text) if "://" in text else text


def one_line(text: str, limit: int | None = 120) -> str:
    """A name from data (file, reason, tokenizer) for a table's cell, or a line with such names: printable,
    without line breaks, its middle cut out where it is longer than `limit` characters."""
    if limit is not None and len(text) > limit:
        text = f"{text[: limit // 2]}…{text[len(text) - limit + limit // 2 + 1 :]}"
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def without_query(path: str) -> str:
    """Of a web address the part before the question mark: what follows may hold keys."""
    return path.partition("?")[0] if path.startswith(("http://", "https://")) else path


def portable_name(path: str | os.PathLike[str]) -> str:
    """The last part of a path as text that any file can hold: bytes that are not UTF-8 are written out."""
    return os.fsencode(Path(without_query(os.fspath(path))).name).decode("utf-8", "backslashreplace")


def snippet(text: str, limit: int = 280) -> str:
    """The start of a document, printable."""
    text = text.strip()
    return printable(text if len(text) <= limit else text[:limit].rstrip() + " …")


def _harmless(c: str) -> bool:
    return c.isprintable() or c in "\n\t" or unicodedata.category(c) == "Zs"


def _escaped(c: str) -> str:
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
