"""The arenas of glibc's malloc: where threads take memory from."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

M_ARENA_MAX, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -8, -1, -3
"""As malloc.h numbers them."""
KEPT, LARGEST = 64 << 20, 32 << 20
"""Freed bytes at an arena's end that stay with the process; the largest piece that comes from an arena."""
SHARE = 4
"""Threads of an arena, as many threads as cores being at work."""


def share_arenas(cores: int | None = None) -> None:
    """Threads of this process take memory from the same few places: what one frees another takes.

    By itself malloc makes an arena for each thread, up to eight a core, and of most of them what is freed at
    the end never goes back to the system; and it gives back what one block frees and the next one asks for,
    which the system then clears anew. Call it before the first thread: afterwards it does nothing, nor does
    it without glibc.
    """
    count = max(1, (cores or os.cpu_count() or 1) // SHARE)
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_ARENA_MAX, count), (M_TRIM_THRESHOLD, KEPT), (M_MMAP_THRESHOLD, LARGEST)):
            mallopt(option, value)
