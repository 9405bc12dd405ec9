"""A folder that is there whole or not at all: made beside its place under another name, then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tokpack.errors import UsageError

Entries = Callable[[Path], set[str]]


@contextmanager
def fresh_folder(out: Path, overwrite: bool, entries: Entries) -> Iterator[Path]:
    """Yield an empty folder to write into; it becomes `out` when the block ends well.

    `entries(out)` names what in `out` an earlier command of the same kind wrote: with `overwrite` that is
    replaced. Raises UsageError when `out` exists without `overwrite`, and whenever it holds anything else.
    """
    _check_place(out, overwrite, entries)
    out.parent.mkdir(parents=True, exist_ok=True)
    making = out.with_name(f".{out.name}.part")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    try:
        yield making
        _check_place(out, overwrite, entries)
        if out.exists():
            shutil.rmtree(out)
        making.replace(out)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def _check_place(out: Path, overwrite: bool, entries: Entries) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError("the output is a file", where=str(out), hint="give -o a folder")
    present = {path.name for path in out.iterdir()}
    foreign = sorted(present - entries(out))
    if foreign:
        raise UsageError(
            f"the folder holds what this command did not write: {', '.join(foreign[:3])}",
            where=str(out),
            hint="give -o a new folder",
        )
    if present and not overwrite:
        raise UsageError("the folder exists already", where=str(out), hint="give --overwrite, or another -o")
