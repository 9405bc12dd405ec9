"""What of a tokenizer a command can load while it imports itself: the process of `tokenizers`.

gigatoken 0.10 keeps the interpreter's lock while it builds a vocabulary: the imports would wait for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

from tokpack.encoding.reference_process import start_early
from tokpack.encoding.snapshot import BACKEND, SNAPSHOT, kept_snapshot
from tokpack.files.stamps import file_stamp, named

LARGE = 64 << 20
"""Bytes of input for which `tokenizers` has to be ready soon."""


def load_early(tokenizer: str, paths: Sequence[str]) -> None:
    """Begin to load a tokenizer folder that was used before, where the inputs at `paths` are so large that
    `tokenizers` will be asked soon, and no earlier run proved all that it is asked about them. What is wrong
    with it shows where it is needed."""
    if sum(map(_size, paths)) > LARGE:
        Thread(target=_load, args=(Path(tokenizer), paths), name="load early", daemon=True).start()


def _load(tokenizer: Path, paths: Sequence[str]) -> None:
    with suppress(Exception):
        if folder := kept_snapshot(tokenizer):
            start_unless_proved(folder, paths)


def start_unless_proved(folder: Path, paths: Sequence[str], askers: int = 1) -> None:
    """Start the process of `tokenizers` for so many that will ask, where an earlier run over the inputs at
    `paths` has not proved all that is asked. `folder`: of a snapshot. Raises OSError."""
    if not _proved(folder, paths):
        start_early(folder / BACKEND, askers)


def _proved(folder: Path, paths: Sequence[str]) -> bool:
    from tokpack.encoding.proved import of_inputs

    sha256 = json.loads((folder / SNAPSHOT).read_text(encoding="utf-8"))["sha256"]
    return of_inputs(sha256, named((path, [file_stamp(Path(path))]) for path in paths)).is_kept()


def _size(path: str) -> int:
    with suppress(OSError, ValueError):  # a NUL is no error of the system
        return Path(path).stat().st_size if Path(path).is_file() else 0
    return 0
