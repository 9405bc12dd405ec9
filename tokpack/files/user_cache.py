"""Where tokpack keeps what can be made again: in folders that this user alone can write into."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tokpack.errors import OutputError
from tokpack.files.own_files import is_mine, is_my_file

LASTS = 90 * 24 * 3600.0
"""Seconds: then a file is made again."""
NEW, ABANDONED = ".new-", 2 * 24 * 3600.0
"""How the name of a folder begins that is being made, and the seconds after which nobody does any more."""


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """`cache_dir`, else TOKPACK_CACHE, else ~/.cache/tokpack."""
    given = cache_dir or os.environ.get("TOKPACK_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "tokpack"


def own_cache(name: str) -> Path:
    """The folder `name` of the cache; where none can be written, one among the temporary files.

    Raises OutputError when others can write into it, or there is no place for it.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    for root in (cache_root(), Path(tempfile.gettempdir()) / f"tokpack-{user}"):
        folder = root / name
        with suppress(OSError):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(exist_ok=True, mode=0o700)
            _close_to_group(folder)
            if root.name == f"tokpack-{user}" and not is_mine(root):
                break
            if not is_mine(folder):
                break
            if os.access(folder, os.W_OK):
                return folder
    raise OutputError(
        "no folder for the cache that this user alone can write into",
        where=str(cache_root() / name),
        hint="set TOKPACK_CACHE to a folder of your own, and check its rights",
    )


def scratch_in(folder: Path) -> Path:
    """A new folder to make something in, which moves to its place when it is done. Those go that killed
    commands left. Raises OSError."""
    forget_abandoned(folder, f"{NEW}*")
    return Path(tempfile.mkdtemp(prefix=NEW, dir=folder))


def forget_abandoned(folder: Path, pattern: str) -> None:
    """Files and folders that were begun and not touched for long."""
    for begun in folder.glob(pattern):
        with suppress(OSError):
            if begun.lstat().st_mtime < time.time() - ABANDONED:
                shutil.rmtree(begun) if is_mine(begun) else begun.unlink()


def read_own(place: Path) -> bytes | None:
    """A file of the cache; None where there is none, or others can write it."""
    with suppress(OSError):
        if is_my_file(place):
            return place.read_bytes()
    return None


def write_own(place: Path, data: bytes) -> None:
    """A file of the cache, at once; what was made long ago goes. A cache that cannot be written costs time,
    nothing else."""
    with suppress(OSError):
        handle, part = tempfile.mkstemp(dir=place.parent, prefix=".part-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(part).replace(place)
        for other in place.parent.iterdir():
            if other.stat().st_mtime < time.time() - LASTS:
                other.unlink()


def _close_to_group(folder: Path) -> None:
    """A folder of this user's that a lax umask opened to the group; one open to everybody is not believed."""
    mode = folder.lstat().st_mode
    if stat.S_ISDIR(mode) and mode & 0o020 and not mode & 0o002:
        folder.chmod(mode & ~0o022 & 0o7777)
