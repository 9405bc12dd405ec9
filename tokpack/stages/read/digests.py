"""The SHA-256 of sources: a step of its own, for those that no reader goes through from start to end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from tokpack.stages.read.sources import Source
from tokpack.stages.read.streams import open_hashing
from tokpack.stages.read.tables import dataset_sha256
from tokpack.stages.read.unchanged import Stamp, unchanged

READ_BYTES = 1 << 20
Digests = dict[int, str]
"""Number of a source -> its SHA-256."""


@contextmanager
def digests_behind(sources: Mapping[int, tuple[Source, Stamp]]) -> Iterator[Digests]:
    """Takes digests in a thread while the block runs; they are all there after it.

    Raises DataError for a file that is no longer what its stamp says.
    """
    found: Digests = {}
    stop = Event()

    def take() -> None:
        for number, (source, stamp) in sources.items():
            with unchanged(source, stamp):
                digest = _sha256(source, stop)
            if digest is None:
                return
            found[number] = digest

    with ThreadPoolExecutor(1, thread_name_prefix="tokpack-sha256") as behind:
        taken = behind.submit(take)
        try:
            yield found
        except BaseException:
            stop.set()
            raise
        taken.result()


def source_sha256(source: Source) -> str | None:
    """As a reader takes it; None for what can be read only once."""
    if source.path == "-":
        return None
    return dataset_sha256(source) if source.container == "dataset" else _sha256(source, Event())


def _sha256(source: Source, stop: Event) -> str | None:
    digest = hashlib.sha256()
    with open_hashing(source) as stream:
        while data := stream.raw.read(READ_BYTES):
            if stop.is_set():
                return None
            digest.update(data)
    return digest.hexdigest()
