"""One writer an output: a lock file beside it, gone when the writer is, however it ended.

The system lets go of the lock of a process that dies. The file is removed by its holder; whoever opened it
before that notices that it is no longer the file of that name, and tries again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tokpack.errors import UsageError, check_name
from tokpack.terminal.interrupts import leftover

LONGEST_NAME = 240
"""Bytes of a name that leave room for an ending, of the 255 that file systems allow."""


def beside(out: Path, ending: str) -> Path:
    """A hidden place beside `out` that nothing else has: `.packed.part`, `.packed.lock`."""
    out = out.absolute()
    name = out.name
    if not name:
        raise UsageError("the root is no output", where=str(out), hint="give a folder or file in it")
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = "tokpack-" + hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return out.with_name(f".{name}.{ending}")


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold the lock of the output `out`, a file or folder. Raises UsageError while another process does."""
    check_name(out)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = _lock_file(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UsageError(
                "another run is writing here", where=str(out), hint="wait for it, or give another -o"
            ) from None
        except OSError:  # some network file systems know no locks
            pass
        if _is_still(handle, path):
            break
        os.close(handle)
    try:
        with leftover(path):
            yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _lock_file(out: Path) -> Path:
    """Beside the output, or inside it where its folder is all that can be written."""
    path = beside(out, "lock")
    if out.is_dir() and not os.access(path.parent, os.W_OK):
        return out / ".work.lock"
    return path


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
