"""Sources: inputs (files, folders, globs, URLs, stdin) -> files in a stable order."""

from __future__ import annotations

import glob
import json
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn, cast

from tokpack import schema
from tokpack.errors import DataError, UsageError, near_matches, reading
from tokpack.settings.config import SourceConfig
from tokpack.stages.read.remote import list_remote

log = logging.getLogger("tokpack")

Container = Literal["", "jsonl", "json", "parquet", "arrow", "csv", "tsv", "text", "dataset"]
"""How rows lie in a file; empty: the name does not say, `containers.recognize` looks inside."""

EXTENSIONS: dict[str, Container] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "text",
    ".text": "text",
}
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files of `datasets` about data: in a folder they are no data."""
LONGEST_LINE = 256 << 20
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
    note: str = ""
    """What a user should know about how it is read."""
    max_line: int = LONGEST_LINE
    """Bytes of its longest line; more is an error."""
    head_only: bool = False
    """Only the first rows are read, not the file to its end."""
    bytes_read: int = 0
    """As it is stored, by the block that was read last."""
    version: str = ""
    """Of a remote object: changes with its content; empty where its store does not say."""


def open_sources(configs: tuple[SourceConfig, ...], max_line: int = LONGEST_LINE) -> list[Source]:
    """Expand paths, folders and globs, in a stable order.

    Raises UsageError for what does not exist, DataError for what cannot be opened.
    """
    sources: list[Source] = []
    for config in configs:
        with reading(config.path):
            sources += _expand(config)
    if not sources:
        raise UsageError("no input given", hint="tokpack pack DATA.jsonl --tokenizer FOLDER -o OUT")
    if sum(source.path == "-" for source in sources) > 1:
        raise UsageError("standard input is given twice", where="-", hint="it can be read once only")
    _make_names_unique(sources)
    for source in sources:
        source.max_line = max_line
    return sources


# Inputs to files


def _expand(config: SourceConfig) -> Iterator[Source]:
    path = config.path
    if not path:
        raise UsageError("the name of an input is empty", where="''", hint="give . for the folder you are in")
    if path == "-":
        yield Source("stdin", path, cast(Container, config.container), "", config)
        return
    if "://" in path:
        yield from _remote(path, config)
        return
    folder = Path(path)
    if folder.is_dir():
        yield from _folder(folder, config)
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


def _folder(folder: Path, config: SourceConfig) -> Iterator[Source]:
    if _is_saved(folder):
        yield Source(folder.name, str(folder), "dataset", "", config)
        return
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        yield from _splits(folder, saved_field(splits, "splits"), config)
        return
    known = (p for p in _data_in(folder) if p.is_dir() or _container(p.name, config))
    found = [path for path in sorted(known) if not _leads_nowhere(path)]
    if not found:
        raise UsageError("no data file in this folder", where=str(folder), hint=known_extensions())
    for path in found:
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            yield Source(name, str(path), "dataset", "", config)
        else:
            yield _file_source(str(path), name, config)


def _splits(folder: Path, splits: list[str], config: SourceConfig) -> Iterator[Source]:
    """All of them, test splits too: whoever has several is told."""
    splits_read = f"{folder.name}: all of its splits are read, {', '.join(splits)}"
    note = f"{splits_read}; {folder / splits[0]} is one alone" if len(splits) > 1 else ""
    for split in splits:
        yield Source(f"{folder.name}/{split}", str(folder / split), "dataset", "", config, note=note)
        note = ""


def _data_in(folder: Path) -> Iterator[Path]:
    """Files and saved datasets below, but hidden ones and what tokpack itself wrote there.

    Links are followed; a folder that two paths lead to is read once, by the first of them.
    """
    seen: set[tuple[int, int]] = set()
    for inside, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        here = Path(inside)
        status = here.stat()
        place = status.st_dev, status.st_ino
        ours = here != folder and ((here / schema.WORK).is_dir() or (here / schema.SUMS).is_file())
        if ours or place in seen:
            folders.clear()
        elif _is_saved(here):
            yield here
            folders.clear()
        else:
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (here / name for name in files if not name.startswith(".") and name not in METADATA)
        seen.add(place)


def _leads_nowhere(path: Path) -> bool:
    """Whether it is a link to nothing, or to itself; whoever has one is told."""
    if path.exists():
        return False
    log.warning("%s is a link that leads nowhere: left out", path)
    return True


def saved_field(path: Path, key: str) -> Any:
    """Of a file that `datasets.save_to_disk` wrote."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"not as `datasets` saves it: no {key!r}", where=str(path), hint="save the dataset again"
        ) from None


def _is_saved(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote it."""
    return all((folder / name).is_file() for name in ("dataset_info.json", "state.json"))


def _refuse(error: OSError) -> NoReturn:
    raise error


def _file_source(path: str, name: str, config: SourceConfig) -> Source:
    status = Path(path).stat()
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{name} is a folder", where=path, hint="give the folder itself")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(
            f"{name} is no regular file, and inputs are read twice",
            where=path,
            hint="pipe it in, and give - as input",
        )
    return Source(name, path, _container(name, config), _compression(name), config, status.st_size)


def _remote(url: str, config: SourceConfig) -> Iterator[Source]:
    def is_data(name: str) -> bool:
        return bool(_container(name, config)) and name.rsplit("/", 1)[-1] not in METADATA

    for file in list_remote(url, is_data):
        container, compression = _container(file.name, config), _compression(file.name)
        yield Source(
            file.name, file.url, container, compression, config, file.size_bytes, version=file.version
        )


def _container(name: str, config: SourceConfig) -> Container:
    if config.container:
        return cast(Container, config.container)
    stem = name.removesuffix(_compression(name)) if _compression(name) else name
    return EXTENSIONS.get(PurePosixPath(stem).suffix.lower(), "")


def _compression(name: str) -> str:
    return next((end for end in COMPRESSIONS if name.lower().endswith(end)), "")


def known_extensions() -> str:
    return (
        "known endings: " + " ".join(EXTENSIONS) + " (each also .gz or .zst); or give `container` in the TOML"
    )


def _make_names_unique(sources: list[Source]) -> None:
    """`a/data.jsonl` and `b/data.jsonl` become `data.jsonl` and `data.jsonl#2`."""
    seen: dict[str, int] = {}
    for source in sources:
        source.name = source.config.name or os.fsencode(source.name).decode("utf-8", "backslashreplace")
        seen[source.name] = seen.get(source.name, 0) + 1
        if seen[source.name] > 1:
            source.name = f"{source.name}#{seen[source.name]}"
