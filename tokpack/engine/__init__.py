"""Where and by how many a run's blocks are worked on."""

from __future__ import annotations

import os

COLLECT = (400_000, 20, 100)
"""When Python looks for circles: a block's values are fewer objects, and hardly any is in one."""


def default_workers() -> int:
    """As many as there are cores for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
