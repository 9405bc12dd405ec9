"""What must be on disk before a name says that it is there: contents first, then the name, then the folder.

A rename survives a power cut only after its folder was synced, and may survive it before the contents do: so
whatever a later run believes by its name is synced here.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def sync_file(path: Path) -> None:
    """The contents of a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """The names in a folder. Systems that cannot open or sync folders need not."""
    with suppress(OSError):
        sync_file(folder)


def sync_tree(folder: Path) -> None:
    """Everything below: each file, then each folder, inner ones first."""
    for inside, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync_file(Path(inside, name))
        sync_folder(Path(inside))


def part_of(path: Path) -> Path:
    """Where a file is written before it has its name: of this writer alone, whoever else writes it."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")


def write_durably(path: Path, data: bytes, part: Path | None = None) -> None:
    """A small file, whole or not at all, on disk when this returns. It is written at `part` first."""
    part = part or path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def write_page(path: Path, text: str) -> None:
    """A file that the user named, whole or not at all: what was there stays when the disk is full.

    Links are followed; pipes, devices, and files in folders that cannot be written into are written in place.
    """
    path, data = path.resolve(), text.encode("utf-8")
    if path.is_file() != path.exists() or not os.access(path.parent, os.W_OK):
        path.write_bytes(data)
    else:
        write_durably(path, data, part_of(path))
