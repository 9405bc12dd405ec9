"""Streams: the bytes of a source.

A source is opened as one stream. What passes through is hashed, so that the manifest names the very bytes
that were read, and decompressed after that.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from tokpack.errors import DataError, reading, writing
from tokpack.stages.read.remote import open_remote
from tokpack.stages.read.sources import Source

IN_MEMORY = 64 << 20
"""A fetched file that is larger lies on disk, in `TMPDIR`."""
MOST_GROWTH, LEAST_BOMB = 1000, 1 << 30
MOST_COLUMNS = 20_000
"""Each costs 0.2 ms and 20 kB, whether a document needs it or not."""
"""A compressed table that unpacks to more than so many times its size, and so many bytes, is a bomb."""
BOM = b"\xef\xbb\xbf"


def open_hashing(source: Source) -> Hashing:
    """The source's bytes as they are stored. Raises DataError when they cannot be opened."""
    return Hashing(_open_raw(source))


def _open_raw(source: Source) -> IO[bytes]:
    if source.path == "-":
        return cast(IO[bytes], stdin())
    if "://" in source.path:
        return open_remote(source.path)
    with reading(source.path):
        return Path(source.path).open("rb")


def stdin() -> Piped:
    """What is piped in, once for the process."""
    global _piped  # noqa: PLW0603 - there is one standard input
    if _piped is None or _piped.raw is not sys.stdin.buffer:
        _piped = Piped(cast(IO[bytes], sys.stdin.buffer))
    return _piped


@contextmanager
def looked_at(source: Source) -> Iterator[None]:
    """What is read of the source inside will be read again: standard input keeps it."""
    if source.path != "-":
        yield
        return
    stdin().keeping = True
    try:
        yield
    finally:
        stdin().begin_again()


def decompress(raw: Hashing, source: Source) -> IO[bytes]:
    if not source.compression:
        return cast(IO[bytes], raw)
    # Arrow's streams read concatenated members and raise on a cut-off file; others end silently.
    codec = {".gz": "gzip", ".zst": "zstd"}[source.compression]
    return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec))


def seekable(stream: IO[bytes], source: Source) -> IO[bytes]:
    """Parquet and Arrow files are read at random: compressed and piped ones, and remote ones that are read to
    their end, are fetched once, into a temporary file. Raises DataError for a decompression bomb."""
    if not isinstance(stream, Hashing) or not stream.seekable():
        return _fetched(stream, source)
    whole = "://" in source.path and not source.head_only
    return _fetched(cast(IO[bytes], stream), source) if whole else cast(IO[bytes], stream)


def _fetched(stream: IO[bytes], source: Source) -> IO[bytes]:
    file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - goes with its reader
    size = 0
    while data := stream.read(1 << 20):
        size += len(data)
        if source.compression:
            check_growth(size, source)
        with writing(Path(tempfile.gettempdir())):
            file.write(data)
    file.seek(0)
    return cast(IO[bytes], file)


def check_growth(size: int, source: Source) -> None:
    """Raises DataError for more than 1,000 times the size of the source, and than 1 GiB."""
    if source.size_bytes and size > max(LEAST_BOMB, MOST_GROWTH * source.size_bytes):
        raise DataError(
            f"it unpacks to more than {MOST_GROWTH:,} times its size",
            where=source.path,
            hint="it looks made to fill disks; unpack it yourself where it is not",
        )


def check_columns(count: int, where: str) -> None:
    """Raises DataError for a table of more than `MOST_COLUMNS`, those inside of others counted."""
    if count > MOST_COLUMNS:
        raise DataError(
            f"a table of {count:,} columns, and {MOST_COLUMNS:,} are the most",
            where=where,
            hint="take out the columns that no document needs, or write it as JSON lines",
        )


class Piped(io.RawIOBase):
    """A pipe whose head can be read twice: what passes while `keeping` comes again after `begin_again`."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw, self.keeping, self._kept = raw, False, io.BytesIO()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._kept.read(size)
        if size < 0 or len(data) < size:
            more = self.raw.read(size - len(data) if size >= 0 else -1)
            if self.keeping:
                self._kept.write(more)
            data += more
        return data

    def begin_again(self) -> None:
        self.keeping = False
        self._kept.seek(0)

    def close(self) -> None:
        """Standard input stays open."""


_piped: Piped | None = None


class Hashing(io.RawIOBase):
    """Reads through to `raw` and hashes; a file that was read out of order is hashed again at the end."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw, self._digest, self._linear = raw, hashlib.sha256(), True
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.raw.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        self._linear = False
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        data = self.raw.read(size)
        self.bytes_read += len(data)
        if self._linear:
            self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        if not self._linear:
            self.raw.seek(0)
            return hashlib.file_digest(self.raw, "sha256").hexdigest()  # type: ignore[arg-type]
        while self.read(1 << 20):  # what follows the last frame or array
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        if not self.closed:
            self.raw.close()
        super().close()


class Joined(io.RawIOBase):
    """`head`, then the rest of `stream`."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head, self._stream = io.BytesIO(head), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head.read(len(buffer)) or self._stream.read(len(buffer)) or b""
        buffer[: len(data)] = data
        return len(data)
