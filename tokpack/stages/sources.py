"""Sources: inputs (files, folders, globs, URLs, stdin) -> files in a stable order, and their bytes.

A source is opened as one stream. What passes through is hashed, so that the manifest names the very bytes
that were read, and decompressed after that.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NoReturn, cast

import pyarrow as pa

from tokpack import schema
from tokpack.config import SourceConfig
from tokpack.errors import DataError, UsageError, near_matches
from tokpack.stages.remote import list_remote, open_remote

Container = Literal["jsonl", "json", "parquet", "arrow", "csv", "text", "dataset"]

EXTENSIONS: dict[str, Container] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".txt": "text",
}
COMPRESSIONS = (".gz", ".zst")


@dataclass(slots=True)
class Source:
    """One input file. `name` is portable (no folder of this machine); `sha256` is set once it was read."""

    name: str
    path: str
    container: Container
    compression: str
    config: SourceConfig
    size_bytes: int | None = None
    sha256: str | None = None


def open_sources(configs: tuple[SourceConfig, ...]) -> list[Source]:
    """Expand paths, folders and globs, in a stable order. Raises UsageError for what does not exist."""
    sources = [source for config in configs for source in _expand(config)]
    if not sources:
        raise UsageError("no input given", hint="tokpack pack DATA.jsonl --tokenizer FOLDER -o OUT")
    if sum(source.path == "-" for source in sources) > 1:
        raise UsageError("standard input is given twice", where="-", hint="it can be read once only")
    _make_names_unique(sources)
    return sources


# Inputs to files


def _expand(config: SourceConfig) -> Iterator[Source]:
    path = config.path
    if path == "-":
        yield Source("stdin", path, cast(Container, config.container or "jsonl"), "", config)
        return
    if "://" in path:
        yield from _remote(path, config)
        return
    folder = Path(path)
    if folder.is_dir():
        if (folder / "dataset_info.json").is_file():
            yield Source(folder.name, path, "dataset", "", config)
            return
        if (folder / "dataset_dict.json").is_file():
            for split in json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]:
                yield Source(f"{folder.name}/{split}", str(folder / split), "dataset", "", config)
            return
        found = sorted(p for p in _files_in(folder) if _container(p.name, config))
        if not found:
            raise UsageError("no data file in this folder", where=path, hint=_known_extensions())
        for file in found:
            yield _file_source(str(file), file.relative_to(folder).as_posix(), config)
    elif folder.exists():
        yield _file_source(path, folder.name, config)
    else:
        matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - the pattern may be absolute
        if not matches:
            known = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise UsageError(
                f"no such file: {folder.name}",
                where=path,
                hint=near_matches(folder.name, known[:50]) if known else "check the path",
            )
        for match in matches:
            yield _file_source(match, Path(match).name, config)


def _files_in(folder: Path) -> Iterator[Path]:
    """All files below, but hidden ones and what tokpack itself wrote there."""
    for inside, folders, files in os.walk(folder, onerror=_refuse):
        here = Path(inside)
        if here != folder and ((here / schema.WORK).is_dir() or (here / schema.SUMS).is_file()):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (here / name for name in files if not name.startswith(".") and (here / name).is_file())


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"cannot open: {error.strerror}", where=str(error.filename), hint="check path and rights")


def _file_source(path: str, name: str, config: SourceConfig) -> Source:
    container = _container(name, config)
    if container is None:
        raise UsageError(f"cannot tell the file type of {name}", where=path, hint=_known_extensions())
    return Source(name, path, container, _compression(name), config, Path(path).stat().st_size)


def _remote(url: str, config: SourceConfig) -> Iterator[Source]:
    for file in list_remote(url, lambda name: _container(name, config) is not None):
        container = _container(file.name, config)
        if container is None:
            raise UsageError(f"cannot tell the file type of {file.name}", where=url, hint=_known_extensions())
        yield Source(file.name, file.url, container, _compression(file.name), config, file.size_bytes)


def _container(name: str, config: SourceConfig) -> Container | None:
    if config.container:
        return cast(Container, config.container)
    stem = name.removesuffix(_compression(name)) if _compression(name) else name
    return EXTENSIONS.get(PurePosixPath(stem).suffix.lower())


def _compression(name: str) -> str:
    return next((end for end in COMPRESSIONS if name.lower().endswith(end)), "")


def _known_extensions() -> str:
    return (
        "known endings: " + " ".join(EXTENSIONS) + " (each also .gz or .zst); or give `container` in the TOML"
    )


def _make_names_unique(sources: list[Source]) -> None:
    """`a/data.jsonl` and `b/data.jsonl` become `data.jsonl` and `data.jsonl#2`."""
    seen: dict[str, int] = {}
    for source in sources:
        if source.config.name:
            source.name = source.config.name
        seen[source.name] = seen.get(source.name, 0) + 1
        if seen[source.name] > 1:
            source.name = f"{source.name}#{seen[source.name]}"


# Streams


def open_hashing(source: Source) -> Hashing:
    """The source's bytes as they are stored. Raises DataError when they cannot be opened."""
    return Hashing(_open_raw(source))


def _open_raw(source: Source) -> IO[bytes]:
    if source.path == "-":
        return cast(IO[bytes], stdin())
    if "://" in source.path:
        return open_remote(source.path)
    try:
        return Path(source.path).open("rb")
    except OSError as error:
        raise DataError(
            f"cannot open: {error.strerror or error}", where=source.path, hint="check path and rights"
        ) from None


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


def seekable(stream: IO[bytes]) -> IO[bytes]:
    """Parquet and Arrow files are read at random: compressed or piped ones are buffered whole."""
    if isinstance(stream, Hashing) and stream.seekable():
        return cast(IO[bytes], stream)
    return io.BytesIO(stream.read())


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
        self._raw, self._digest, self._linear = raw, hashlib.sha256(), True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._raw.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        self._linear = False
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        if self._linear:
            self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        if not self._linear:
            self._raw.seek(0)
            return hashlib.file_digest(self._raw, "sha256").hexdigest()  # type: ignore[arg-type]
        while self.read(1 << 20):  # what follows the last frame or array
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
