"""How much memory there is: of the machine, within the limits of the cgroups that this process is in."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

UNKNOWN = 4 << 30
"""Free bytes where the system does not say."""


def free_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """What the process may still take; pages of files, which the system takes back, count as free."""
    found = []
    with suppress(OSError, ValueError):
        found.append(1024 * _number((proc / "meminfo").read_text(), r"MemAvailable:"))
    with suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                found += _left(cgroups / kinds, path.strip("/"))
    return max(0, min(found, default=UNKNOWN))


def own_bytes(proc: Path = Path("/proc")) -> int:
    """Memory of this process that is not of files; 0 where the system does not say."""
    with suppress(OSError, ValueError):
        return 1024 * _number((proc / "self" / "status").read_text(), r"RssAnon:")
    return 0


def _left(top: Path, path: str) -> list[int]:
    """Of the cgroup and those around it; in a container the path may be of outside, then of the top alone."""
    left = []
    for folder in (top / path, *(top / path).parents):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            with suppress(OSError, ValueError):  # "max": none
                stat = (folder / "memory.stat").read_text()
                below = "total_" if "total_active_file" in stat else ""
                files = sum(_number(stat, f"{below}{kind}_file") for kind in ("active", "inactive"))
                most = int((folder / limit).read_text())
                left.append(most - int((folder / used).read_text()) + files)
        if folder == top:
            break
    return left


def _number(text: str, name: str) -> int:
    match = re.search(rf"^{name}\s+(\d+)", text, re.MULTILINE)
    if match is None:
        raise ValueError(name)
    return int(match[1])
