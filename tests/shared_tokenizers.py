"""What the tests of one process share: starting a reference process takes a second of a large vocabulary,
loading the fast path another, asking transformers in a process of its own four, compiling a template a tenth.
The tests of these things have them as users do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokpack.encoding import fast_plan, snapshot, tokenizer
from tokpack.encoding.reference_process import ReferenceProcess
from tokpack.stages.render.template import chat_template

MOST_PROCESSES, MOST_TEMPLATES = 3, 500
ask_apart: Callable[[Path, Path], None] = snapshot._ask_transformers


class SharedReferences:
    """One living process for each tokenizer.json, the last few of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, ReferenceProcess] = OrderedDict()

    def __call__(self, backend: Path) -> ReferenceProcess:
        status = backend.stat()
        key = backend.resolve(), status.st_mtime_ns, status.st_size
        found = self._kept.pop(key, None)
        if found is None or not found.close.alive or found._process.poll() is not None:
            found = ReferenceProcess(backend)
        self._kept[key] = found
        while len(self._kept) > MOST_PROCESSES:
            self._kept.popitem(last=False)
        return found


def ask_here(folder: Path, out: Path) -> None:
    """Snapshots are taken in this process; what is wrong with a folder is said by the other one."""
    try:
        snapshot.write_snapshot(str(folder.resolve()), str(out))
    except (Exception, SystemExit):
        ask_apart(folder, out)


def share() -> None:
    """For the rest of this process."""
    tokenizer.ReferenceProcess = SharedReferences()  # type: ignore[misc, assignment]
    snapshot._ask_transformers = ask_here
    fast_plan._kept = lru_cache(MOST_PROCESSES)(fast_plan._kept.__wrapped__)
    chat_template._code = lru_cache(MOST_TEMPLATES)(chat_template._code.__wrapped__)
