"""`SHA256SUMS`: what it covers, how it is written, read and compared."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from tokpack.errors import DataError, UsageError
from tokpack.files.durable import sync_folder, sync_tree
from tokpack.files.own_files import entries_below, is_hub_link, is_plain
from tokpack.hub import folder_like
from tokpack.schema import RUN, SUMS, WORK

CACHE = "cache-"
"""Files beside the shards that are no part of the dataset begin like this (`datasets.map` writes such)."""
SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
PUSHED = ("README.md", ".gitattributes")
"""Beside a packed dataset that was pushed: its card, and what the Hub adds."""
MOST_BYTES = 1 << 28
"""Of a file of sums, or a manifest, that is read at all."""


def write_sums(folder: Path, known: Mapping[str, str]) -> None:
    """`SHA256SUMS`, the last file written: what it names is on the disk before it is.

    `known`: digests taken while the file was written.
    """
    lines = [f"{known.get(name) or file_sha256(folder / name)}  {name}\n" for name in covered_files(folder)]
    whole = folder / f".{SUMS}.part"
    whole.write_text("".join(lines), encoding="utf-8")
    sync_tree(folder)
    whole.replace(folder / SUMS)
    sync_folder(folder)


def covered_files(folder: Path) -> list[str]:
    """Relative names of what `SHA256SUMS` covers: all but itself, `run.json` and what is no part of it."""
    return sorted(name for name, entry in entries_below(folder) if entry.is_file() and not _is_beside(name))


def _is_beside(name: str) -> bool:
    """Of files that no sums cover when they are written; a finished folder holds `run.json` of these."""
    first, last = name.split("/", 1)[0], name.rsplit("/", 1)[-1]
    return first in (SUMS, f".{SUMS}.part", WORK, f"{WORK}.lock") or last == RUN or last.startswith(CACHE)


def stray_files(folder: Path, listed: Mapping[str, str]) -> list[str]:
    """What lies in a finished folder and is covered by no sum; links and empty folders too."""
    beside = (SUMS, RUN, *PUSHED)
    return [
        name
        for name, entry in entries_below(folder)
        if (name not in listed and name not in beside)
        or not (is_plain(name, entry) or is_hub_link(folder / name))
    ]


def read_sums(folder: Path) -> dict[str, str]:
    """Name -> digest. Raises DataError for a line that is none; see `sum_lines` to go on after one."""
    listed, faults = sum_lines(folder)
    if faults:
        raise DataError(faults[0], where=str(folder / SUMS), hint="run `tokpack verify`, or copy it again")
    return listed


def sum_lines(folder: Path) -> tuple[dict[str, str], list[str]]:
    """(name -> digest, what is wrong with the lines)."""
    path = folder / SUMS
    data = read_limited(path)
    listed: dict[str, str] = {}
    faults = []
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n")[:-1], 1):
        match = SUM_LINE.fullmatch(line)
        if not match or match[2] in listed:
            faults.append(f"{SUMS}: line {number} is damaged")
        else:
            listed[match[2]] = match[1]
    if not data.endswith(b"\n"):
        faults.append(f"{SUMS}: the last line is cut off")
    return listed, faults


def read_limited(path: Path) -> bytes:
    """A file of a foreign folder that is read whole. Raises DataError for one of absurd size."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise DataError(
            f"{path.name} has more than {MOST_BYTES >> 20} MB", where=str(path), hint="copy the folder again"
        )
    return data


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def need_folder(folder: Path) -> None:
    """Raises UsageError; it names the folder that was probably meant."""
    if folder.is_dir():
        return
    if folder.is_file():
        raise UsageError(
            "a file is no packed dataset", where=str(folder), hint="`tokpack pack` makes one of raw data"
        )
    beside = folder_like(str(folder))
    hint = f"did you mean {beside}?" if beside else "give the folder that `tokpack pack -o` wrote"
    raise UsageError("no such folder", where=str(folder), hint=hint)
