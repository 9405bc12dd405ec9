"""Helper processes that start before it is known whether they are needed.

What a helper imports takes it a second, and this process takes that second for its own imports, on one core.
So a command starts helpers before its imports where its inputs look like work for them; what they turn out
not to be needed for costs processor time alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

FEWEST = 4
"""Blocks that are worth a helper which has started."""
BLOCK = 8 << 20
"""Bytes, as `read.block_mb` is by default."""
IMPORTS = ("tokpack.way.helpers", "gigatoken")
LOAD = "tokpack.way.helpers:load_kept="
"""And a tokenizer behind it."""
ONE_CORE = {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Helpers are as many as there are cores: threads inside each would be in one another's way."""

_ENDS = 1 << 16
_VALUES = re.compile(rb'tool_calls|function_call|reasoning|"tools"')
_started: list[subprocess.Popen[bytes]] = []


def start(paths: Iterable[str], workers: int, tokenizer: str = "") -> None:
    """Start helpers for large files that hold calls, tools or reasoning, as their first and last bytes look.
    `workers`: blocks that are in work at once, in this process and in helpers. `tokenizer`: a folder that
    helpers load before they are asked."""
    blocks = sum(map(_size_with_values, paths)) // BLOCK if workers > 1 else 0
    if blocks >= FEWEST:
        with suppress(OSError):
            ready = (*IMPORTS, LOAD + tokenizer) if tokenizer else IMPORTS
            _started.extend(start_helper(*ready) for _ in range(min(workers, blocks) - 1))


def start_helper(*imports: str) -> subprocess.Popen[bytes]:
    """One process; what it is to import, and to load, before it is asked anything."""
    # -P: a folder of the user's that happens to be named like a package must not shadow it.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tokpack.engine.helper", *imports],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ONE_CORE | dict(os.environ),
    )


def waiting() -> int:
    """Helpers that have started and have nothing to do."""
    return len(_started)


def take() -> subprocess.Popen[bytes] | None:
    """One of them, if any is left."""
    return _started.pop() if _started else None


def dismiss() -> None:
    """End those that nobody took."""
    while helper := take():
        helper.kill()
        helper.communicate()


def _size_with_values(name: str) -> int:
    """Bytes of a file that looks as if it held values beside texts; 0 of all else."""
    with suppress(OSError, ValueError):
        path = Path(name)
        if path.is_file() and (size := path.stat().st_size) > BLOCK:
            with path.open("rb") as file:
                head = file.read(_ENDS)
                file.seek(-_ENDS, os.SEEK_END)
                return size if _VALUES.search(head + file.read()) else 0
    return 0
