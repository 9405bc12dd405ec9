"""A folder that is there whole or not at all: made beside its place under another name, then renamed.

    .OUT.part/tokpack   says that a command with this output made the folder, and which names of old are ours
    .OUT.part/new       what is being written; it becomes OUT
    .OUT.part/old       what OUT was before, while the two change places

What a command that was cut off left there is cleaned up by the next one with this output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from tokpack.errors import UsageError
from tokpack.files.durable import sync_folder, sync_tree, write_durably
from tokpack.files.locks import beside, only_writer
from tokpack.files.own_files import Own, entries_below, foreign_files, is_real_folder, remove_own

MARK, HALF, NEW, OLD = "tokpack", "tokpack.part", "new", "old"


@contextmanager
def fresh_folder(out: Path, overwrite: bool, own_in: Callable[[Path], Own]) -> Iterator[Path]:
    """Yield an empty folder to write into; it becomes `out` when the block ends well.

    `own_in(out)` knows the names that an earlier command of the same kind wrote there: with `overwrite` those
    are replaced. Raises UsageError when `out` exists without `overwrite`, whenever it holds anything else,
    and while another command writes there.
    """
    part = beside(out, "part")
    if not (part.exists() or beside(out, "lock").exists()):  # nothing that was left has to go
        _check_place(out, overwrite, own_in)
    with only_writer(out):
        clean_up(out)
        _check_place(out, overwrite, own_in)
        making, old = part / NEW, part / OLD
        part.mkdir()
        (part / MARK).touch()
        making.mkdir()
        try:
            yield making
            sync_tree(making)
            _check_place(out, overwrite, own_in)
            if out.exists():
                own = own_in(out)
                names = [name for name, _ in entries_below(out) if own(name)]
                marked = json.dumps(names).encode()  # while its own record is whole
                write_durably(part / MARK, marked, part / HALF)
                out.rename(old)
            making.rename(out)
            sync_folder(out.parent)
        finally:
            clean_up(out)


def clean_up(out: Path) -> None:
    """Take away what a command with this output left beside it; what OUT was before comes back.

    For the holder of the lock. Raises UsageError when something else has the name.
    """
    part = beside(out, "part")
    if not is_real_folder(part):
        if part.is_symlink():
            raise UsageError("a link is where tokpack writes", where=str(part), hint="take it away")
        return
    if not (part / MARK).is_file() and any(part.iterdir()):
        raise UsageError("a folder of another is in the way", where=str(part), hint="take it away")
    old = part / OLD
    if old.is_dir() and not out.exists():
        old.rename(out)
    remove_own(part / NEW, lambda name: True)
    remove_own(old, _replaced(part / MARK).__contains__)
    for name in (HALF, MARK):
        (part / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty: something in OLD that this command did not write
        part.rmdir()


def _replaced(mark: Path) -> frozenset[str]:
    """Names of the output that was replaced, and of folders in it, which are empty once their files are gone.

    None before that, or of a mark of another kind.
    """
    try:
        names = frozenset(json.loads(mark.read_text(encoding="utf-8")))
        return names | {f"{folder}/" for name in names for folder in PurePosixPath(name).parents}
    except (OSError, ValueError, TypeError, RecursionError):
        return frozenset()


def _check_place(out: Path, overwrite: bool, own_in: Callable[[Path], Own]) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise UsageError("the output is a file", where=str(out), hint="give -o a folder")
    foreign = foreign_files(out, own_in(out))
    if foreign:
        raise UsageError(
            f"the folder holds what this command did not write: {', '.join(foreign[:3])}",
            where=str(out),
            hint="give -o a new folder",
        )
    if any(out.iterdir()) and not overwrite:
        raise UsageError("the folder exists already", where=str(out), hint="give --overwrite, or another -o")
