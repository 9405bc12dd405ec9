"""What the commands in hints are made of: programs of jq, and arguments as a shell takes them."""

from __future__ import annotations

import re
import shlex

ROWS = "jq -c '{}' FILE > rows.jsonl"


def at(column: str) -> str:
    """A column as jq writes it."""
    return f".{column}" if re.fullmatch(r"[A-Za-z_]\w*", column, re.ASCII) else f'.["{column}"]'


def quoted(mapping: str) -> str:
    """What follows `--map`, as a shell takes it for one argument."""
    return shlex.quote(mapping) if re.search(r"[\s()&;'\"<>|$]", mapping) else mapping
