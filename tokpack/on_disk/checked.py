"""Digests of files, compared once: what was found right is remembered by size and time.

The record lies in the user's own cache, one small file for each file that was checked. A file whose size,
times, place or number on the disk changed is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokpack.errors import DataError, OutputError
from tokpack.files.user_cache import own_cache
from tokpack.on_disk.sums import file_sha256
from tokpack.schema import VALIDATION, summed_files

THREADS = 8


def check_dataset(folder: Path, manifest: dict[str, Any]) -> None:
    """The shards of a packed dataset, and of its validation part, against the manifest's sums.

    Raises DataError naming the first that differs.
    """
    from tokpack.on_disk.manifest import read_manifest

    parts = [(folder, manifest)]
    if (folder / VALIDATION).is_dir():
        parts.append((folder / VALIDATION, read_manifest(folder / VALIDATION)))
    check_files((part / shard["file"], shard["sha256"]) for part, of in parts for shard in summed_files(of))


def check_files(files: Iterable[tuple[Path, str]]) -> None:
    """(file, SHA-256) pairs, several at once: about 2 GB/s where the disk gives it."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for path, right in pool.map(lambda pair: (pair[0], is_right(*pair)), files):
            if not right:
                raise DataError(
                    "the bytes of a shard are not those that were packed",
                    where=str(path),
                    hint="copy it again; `tokpack verify` checks all of it, --no-check takes it as it is",
                )


def is_right(path: Path, sha256: str) -> bool:
    """Whether the file has this digest. Raises DataError for a missing file."""
    try:
        stamp = _stamp(path, sha256)
        record = _record(path)
        if record is not None and _remembered(record) == stamp:
            return True
        if file_sha256(path) != sha256:
            return False
    except FileNotFoundError:
        raise DataError(
            "a shard named in the manifest is missing", where=str(path), hint="copy the packed dataset again"
        ) from None
    if record is not None and _stamp(path, sha256) == stamp:
        with suppress(OSError):
            part = record.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(stamp), encoding="utf-8")
            part.replace(record)
    return True


def _stamp(path: Path, sha256: str) -> list[Any]:
    status = path.stat()
    return [sha256, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _record(path: Path) -> Path | None:
    try:
        place = os.fsencode(path.resolve())
        return own_cache("checked") / f"{hashlib.sha256(place).hexdigest()[:32]}.json"
    except OutputError:
        return None


def _remembered(record: Path) -> Any:
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
