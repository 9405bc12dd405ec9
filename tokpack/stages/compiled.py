"""Loops compiled by numba. Importing this imports numba."""

from __future__ import annotations

from typing import Any

import numba


def jit(function: Any) -> Any:
    """Compiled once for all runs, or once a run where no folder to keep it in can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
