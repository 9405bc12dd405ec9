"""Lines broken between words where a terminal would break them within one."""

from __future__ import annotations

import os
import re
import sys

_LABEL = re.compile(r" *(?:(?:error|warning|note|hint|at): )?")
"""What begins a line; the lines that go on with it begin behind."""


def for_stderr(text: str) -> str:
    """As it is where stderr is no terminal."""
    return wrapped(text, columns) if (columns := _columns()) else text


def wrapped(text: str, columns: int) -> str:
    """Lines of at most so many columns, where no single word is longer: that is left whole."""
    return "\n".join(_wrapped_line(line, columns) for line in text.split("\n"))


def _wrapped_line(line: str, columns: int) -> str:
    from rich.cells import cell_len

    if cell_len(line) <= columns:
        return line
    found = _LABEL.match(line)
    label = found[0] if found else ""
    lines = [label]
    begun = False
    for word in line[len(label) :].split(" "):
        if begun and cell_len(lines[-1]) + 1 + cell_len(word) > columns:
            lines.append(" " * len(label))
            begun = False
        lines[-1] += f" {word}" if begun else word
        begun = True
    return "\n".join(one.rstrip() for one in lines)


def _columns() -> int:
    """Of the terminal that stderr is; 0 where it is none."""
    if not sys.stderr.isatty():
        return 0
    if (given := os.environ.get("COLUMNS", "")).isdecimal():
        return int(given)
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return 0
