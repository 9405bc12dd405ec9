"""The output folder: claimed at the start, finished by the manifest and the sums at the end."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokpack import schema
from tokpack.errors import UsageError, check_name
from tokpack.files.fresh_folder import clean_up
from tokpack.files.locks import only_writer
from tokpack.files.own_files import (
    is_mine,
    is_packed_file,
    is_real_folder,
    is_store_file,
    links_in_the_way,
    remove_own,
)
from tokpack.on_disk.manifest import is_blank, is_finished
from tokpack.on_disk.sums import write_sums
from tokpack.stages.write import write_json
from tokpack.way.store import remove_store
from tokpack.way.store_record import RECORD as STORE_RECORD
from tokpack.way.store_record import read_record

log = logging.getLogger("tokpack")

ELSEWHERE = "elsewhere"
"""In OUT/.work: the path of a token store that `--work-dir` moved."""
CLEARING = "clearing"
"""In OUT/.work while what is in OUT is removed."""
MOST_POINTER = 1 << 14
"""Bytes of that path that are read."""


Differs = Callable[[], list[str]]
MOST_NAMED = 5
"""Settings that an error tells."""


@contextmanager
def claim(out: Path, overwrite: bool, differs: Differs = lambda: ["this run"]) -> Iterator[bool]:
    """Make `out` ours, and no other run's meanwhile. Gives whether it is finished: `differs` says of a
    finished folder what is not as this run would write it.

    Raises UsageError when something finished, or of somebody else's, is there, or a run that still goes on.
    """
    if out.is_file():
        raise UsageError("the output is a file", where=str(out), hint="give -o a folder")
    with only_writer(out):
        clean_up(out)
        out.mkdir(parents=True, exist_ok=True)
        yield _check(out, overwrite, differs)


@contextmanager
def beside_others(out: Path, differs: Differs) -> Iterator[bool]:
    """Fill the token store of `out` while others do, without a lock; what is there is left as it is. Gives
    whether the output is finished already, as `claim` does.

    Another process may finish it at any moment: then the store is gone, which is no error, and what was
    written into it since is removed.
    """
    if out.is_file():
        raise UsageError("the output is a file", where=str(out), hint="give -o a folder")
    out.mkdir(parents=True, exist_ok=True)
    if _check(out, False, differs):
        yield True
        return
    try:
        yield False
    except OSError:
        if not is_finished(out):
            raise
    if is_finished(out):
        leave_work(out)


def _check(out: Path, overwrite: bool, differs: Differs) -> bool:
    """Whether there is nothing to do."""
    empty = not any(out.iterdir())  # looked at first: another part may begin now
    finished = is_finished(out)
    cut_off = any((out / name).is_file() and is_blank(out / name) for name in (schema.MANIFEST, schema.SUMS))
    unfinished = (out / schema.WORK).is_dir() or cut_off
    if links := links_in_the_way(out):
        raise UsageError(
            f"a link is where tokpack writes: {links[0]}",
            where=str(out),
            hint="tokpack follows no link inside its folders: take it out, or give another -o",
        )
    if (overwrite and (finished or unfinished)) or (out / schema.WORK / CLEARING).is_file():
        clear(out)
    elif finished:
        leave_work(out)  # of a run that was cut off after its last file
        if not (different := differs()):
            return True
        raise UsageError(
            f"a finished packed dataset is here; different: {', '.join(different[:MOST_NAMED])}",
            where=str(out),
            hint="give --overwrite, or another -o",
        )
    elif not unfinished and not empty:
        raise UsageError(
            "the folder is not empty and not tokpack's", where=str(out), hint="give -o a new folder"
        )
    return False


def work_folder(out: Path, work_dir: str | os.PathLike[str] | None) -> Path:
    """OUT/.work, or a folder of this run's own in `work_dir`, of which OUT/.work keeps the path.

    Raises UsageError when that folder is a link, others may write into it, or its name is not UTF-8.
    """
    inside = out / schema.WORK
    inside.mkdir(exist_ok=True)
    if work_dir is None:
        return inside
    folder = Path(work_dir).resolve() / store_name(out)
    check_name(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not is_mine(folder):
        raise UsageError(
            "the folder of the token store is a link, or others can write into it",
            where=str(folder),
            hint="take it away, or give another --work-dir",
        )
    (inside / ELSEWHERE).write_text(str(folder), encoding="utf-8")
    return folder


def store_name(out: Path) -> str:
    """Of the folder in `--work-dir`: nothing but the output decides it."""
    return "tokpack-" + hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]


def leave_work(out: Path, *, stays: bool = False) -> None:
    """Remove OUT/.work, or with `stays` what is in it, and the store that it points to where that is the one
    of this output."""
    inside = out / schema.WORK
    if (store := _store_elsewhere(out)) is not None:
        _tell_left(store, remove_store(store))
    ours = ELSEWHERE, CLEARING
    left = remove_own(inside, lambda name: is_store_file(name) or name in ours, stays=stays)
    _tell_left(inside, left)


def _store_elsewhere(out: Path) -> Path | None:
    """Where OUT/.work says that the store is; None for a place that no run with this output can have made.

    The pointer may come from anybody: it is only believed about a folder of this user's that is named after
    this very output and holds the record of a run.
    """
    note = out / schema.WORK / ELSEWHERE
    if not is_real_folder(note.parent) or not note.is_file() or note.is_symlink():
        return None
    try:
        text = note.read_bytes()[:MOST_POINTER].decode("utf-8")
        store = Path(text)
        if store.name == store_name(out) and is_mine(store) and read_record(store / STORE_RECORD) is not None:
            return store
        there = store.exists()
    except (ValueError, OSError):  # no text, a NUL, a name too long
        return None
    if there:
        log.warning("%s points to a folder that is no token store of this output: it is left alone", note)
    return None


def _tell_left(folder: Path, left: list[str]) -> None:
    if left:
        log.warning("left in %s, since tokpack did not write it: %s", folder, ", ".join(left[:3]))


def clear(out: Path) -> None:
    """Remove what tokpack wrote, and nothing else. OUT/.work stays, so that the next run takes the folder,
    and says until the end that what is left has to go."""
    inside = out / schema.WORK
    inside.mkdir(parents=True, exist_ok=True)
    (inside / CLEARING).touch()
    remove_own(out, lambda name: is_packed_file(name) and not name.startswith(f"{schema.WORK}/"), stays=True)
    leave_work(out, stays=True)


def finish(out: Path, manifest: dict[str, Any]) -> None:
    """The manifest, then the sums: from here on the folder is a packed dataset."""
    write_json(out / schema.MANIFEST, manifest)
    write_sums(out, {file["file"]: file["sha256"] for file in schema.summed_files(manifest)})
