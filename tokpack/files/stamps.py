"""What names files as they are now."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

FileStamp = tuple[str, int, int, int]
"""Name, number, size and time of a file."""


def file_stamp(path: Path) -> FileStamp:
    """Raises OSError where there is no file."""
    status = path.stat()
    return path.name, status.st_ino, status.st_size, status.st_mtime_ns


def named(inputs: Iterable[tuple[str, Iterable[FileStamp]]]) -> str:
    """One name of all inputs, each given by its path and the stamps of its files."""
    return json.dumps([(path, list(stamps)) for path, stamps in inputs])
