"""SHA-256 of large files that change seldom, kept for the next command: tokenizers take a tenth of a second.

What is kept is named by the file as it is: its place, number, size and times. It lies in files of the user's
own, in a folder that this user alone can write into.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from tokpack.errors import OutputError
from tokpack.files.user_cache import own_cache, read_own, write_own

LARGE = 1 << 20
"""Bytes: what is smaller is read."""
SETTLED = 2.0
"""Seconds after its last change from which on another change shows in a file's times."""


def kept_sha256(path: Path) -> bytes:
    """Of a file's contents. Raises OSError."""
    status = path.stat()
    if status.st_size < LARGE:
        return hashlib.sha256(path.read_bytes()).digest()
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    named = hashlib.sha256(f"{path.resolve()}\n{stamp}".encode("utf-8", "surrogateescape")).hexdigest()
    try:
        place = own_cache("digests") / named[:40]
    except OutputError:
        return hashlib.sha256(path.read_bytes()).digest()
    if len(kept := read_own(place) or b"") == hashlib.sha256().digest_size:
        return kept
    digest = hashlib.sha256(path.read_bytes()).digest()
    if time.time() > max(status.st_mtime, status.st_ctime) + SETTLED:
        write_own(place, digest)
    return digest
