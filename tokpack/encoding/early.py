"""What of a tokenizer a command can load while it imports itself: the process of `tokenizers`.

gigatoken 0.10 keeps the interpreter's lock while it builds a vocabulary: the imports would wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from tokpack.encoding.reference_process import start_early
from tokpack.encoding.snapshot import BACKEND, kept_snapshot

LARGEST = 64 << 20
"""Bytes of input whose proofs are kept: in a longer run the start is no matter."""


def load_early(tokenizer: str, paths: Iterable[str]) -> None:
    """Begin to load a tokenizer folder that was used before, where the inputs at `paths` are so large that
    `tokenizers` will be asked. What is wrong with it shows where it is needed."""
    if sum(map(_size, paths)) > LARGEST:
        Thread(target=_load, args=(Path(tokenizer),), name="load early", daemon=True).start()


def _load(tokenizer: Path) -> None:
    with suppress(Exception):
        if folder := kept_snapshot(tokenizer):
            start_early(folder / BACKEND)


def _size(path: str) -> int:
    with suppress(OSError, ValueError):  # a NUL is no error of the system
        return Path(path).stat().st_size if Path(path).is_file() else 0
    return 0
