"""Where and by how many a run's blocks are worked on."""

from __future__ import annotations

import os


def default_workers() -> int:
    """As many as there are cores for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
