"""The arenas of glibc's malloc: where threads take memory from."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

M_ARENA_MAX = -8
"""As malloc.h numbers it."""
SHARE = 4
"""Threads of an arena, as many threads as cores being at work."""


def share_arenas(cores: int | None = None) -> None:
    """Threads of this process take memory from the same few places: what one frees another takes.

    By itself malloc makes an arena for each thread, up to eight a core, and of most of them what is freed at
    the end never goes back to the system. Call it before the first thread: afterwards it does nothing, nor
    does it without glibc.
    """
    count = max(1, (cores or os.cpu_count() or 1) // SHARE)
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, count)
