"""What of a tokenizer a command can load while it imports itself.

gigatoken leaves the interpreter's lock alone while it loads ranks, and `tokenizers` has a process of its own.
What is wrong with either shows where it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from tokpack.encoding.fast_forms import kept_encoder, plan_file
from tokpack.encoding.reference_process import start_early
from tokpack.encoding.snapshot import BACKEND, SNAPSHOT, kept_snapshot

LARGEST = 64 << 20
"""Bytes of input whose proofs are kept: in a longer run the start is no matter."""


def load_early(tokenizer: str, paths: Iterable[str]) -> None:
    """Begin to load a tokenizer folder that was used before; `tokenizers` too, where the inputs at `paths`
    are so large that it will be asked."""
    asked = sum(map(_size, paths)) > LARGEST
    Thread(target=_load, args=(Path(tokenizer), asked), name="load early", daemon=True).start()


def _load(tokenizer: Path, asked: bool) -> None:
    with suppress(Exception):
        if folder := kept_snapshot(tokenizer):
            if asked:
                start_early(folder / BACKEND)
            if scheme := json.loads(plan_file(folder).read_bytes())["scheme"]:
                kept_encoder(folder, scheme, json.loads((folder / SNAPSHOT).read_bytes())["added_tokens"])


def _size(path: str) -> int:
    with suppress(OSError, ValueError):  # a NUL is no error of the system
        return Path(path).stat().st_size if Path(path).is_file() else 0
    return 0
