"""That an input is the same file, of the same size and time, when its last row was read as at its first.

What was cut or rewritten meanwhile would be packed as half of one version and half of another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokpack.errors import DataError
from tokpack.files.stamps import FileStamp, file_stamp
from tokpack.stages.read.sources import Source

Stamp = tuple[FileStamp, ...]
"""Of each file; of a remote object its version; none of pipes."""


@contextmanager
def unchanged(source: Source, since: Stamp | None = None) -> Iterator[None]:
    """Raises DataError when a file of the source changed while the block ran, or since it had the stamp that
    is given, whatever else went wrong in the block."""
    before = stamp_of(source)
    if since is not None and before != since:
        raise changed(source)
    if len(before) == 1 and source.container != "dataset" and source.size_bytes not in (None, before[0][2]):
        raise changed(source)
    try:
        yield
    except GeneratorExit:  # who reads wanted no more
        raise
    except Exception as error:
        if stamp_of(source) != before:
            raise changed(source) from error
        raise
    if stamp_of(source) != before:
        raise changed(source)


def stamp_of(source: Source) -> Stamp:
    if source.path == "-" or "://" in source.path:
        return ((source.version, 0, source.size_bytes or 0, 0),) if source.version else ()
    path = Path(source.path)
    try:
        files = sorted(path.iterdir()) if source.container == "dataset" else [path]
        return tuple(map(file_stamp, files))
    except OSError:  # taken away: the error of opening it, or a difference to the first stamp, says so
        return ()


def changed(source: Source) -> DataError:
    return DataError(
        "the input changed while it was read: nothing of it is packed",
        where=source.path,
        hint="repeat the command when nothing writes to it, with --overwrite or another -o",
    )
