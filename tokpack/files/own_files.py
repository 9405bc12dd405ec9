"""Which files tokpack writes into a folder, by name, and how they are removed: those alone, no link followed.

A folder may come from anybody. So nothing that is read in it (a pointer, a manifest, a list) decides what is
deleted; names of these forms do, and only of regular files in real folders.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

Own = Callable[[str], bool]
"""Whether a relative name, with `/` between its parts, is of a file that a command wrote; of an empty folder,
with `/` at its end, too."""

_TOP = (
    r"data-\d+-of-\d+\.(arrow|parquet|index)|dataset_info\.json|state\.json|manifest\.json|run\.json"
    r"|report\.(json|html)|(dropped|choice)\.parquet|quarantine\.jsonl|\.?SHA256SUMS(\.part)?"
    r"|cache-[0-9a-f]{16,64}(_\d+_of_\d+)?\.arrow"
)
_TOKENIZER = r"tokenizer/(additional_chat_templates/)?[\w.-]+\.(json|jinja|model|txt|tiktoken)"
_TOKENS = r"tokens/(pieces\.arrow|(input_ids|trained)\.npy)"
_PART = r"(\.([0-9a-f]{8}\.)?part)?"
_STORE = (
    rf"batch-\d+(-\d+)?(\.docs)?\.(part|arrow{_PART})|run\.json{_PART}"
    r"|data-\d+-of-\d+\.(arrow|parquet)\.[0-9a-f]{8}\.part"
)
_STORE_NAME = re.compile(_STORE)
_EMPTY_FOLDER = r"(validation/)?(tokenizer/|tokens/)?(additional_chat_templates/)?"
_PACKED_NAME = re.compile(
    rf"(validation/)?({_TOP}|{_TOKENIZER}|{_TOKENS})|{_EMPTY_FOLDER}|\.work/({_STORE}|elsewhere(\.part)?|clearing)?"
)


def is_packed_file(name: str) -> bool:
    """Of a packed dataset, finished or not: its validation part, tokenizer and token store included."""
    return _PACKED_NAME.fullmatch(name) is not None


def is_tokenizer_file(name: str) -> bool:
    """Of the folder `tokenizer` of a packed dataset, named from the dataset."""
    return re.fullmatch(_TOKENIZER, name) is not None


def is_store_file(name: str) -> bool:
    """Of a token store, named from its folder."""
    return _STORE_NAME.fullmatch(name) is not None


def entries_below(folder: Path, inside: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Relative name and entry of everything below but folders that hold something; an empty one has a `/` at
    the end of its name. Links are entries, never followed."""
    with os.scandir(folder / inside) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{inside}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            below = list(entries_below(folder, f"{name}/"))
            yield from below or [(f"{name}/", entry)]
        else:
            yield name, entry


def is_plain(name: str, entry: os.DirEntry[str]) -> bool:
    """A regular file or an empty folder: no link, pipe or device."""
    return name.endswith("/") or entry.is_file(follow_symlinks=False)


def foreign_files(folder: Path, own: Own) -> list[str]:
    """What another wrote below `folder`: other names, and links and special files of any name."""
    return [name for name, entry in entries_below(folder) if not own(name) or not is_plain(name, entry)]


def links_in_the_way(folder: Path) -> list[str]:
    """Links below that have the name of something tokpack writes, or of a folder around it."""
    around = {"tokenizer", "tokens", "validation", "validation/tokenizer", "validation/tokens", ".work"}
    return [
        name
        for name, entry in entries_below(folder)
        if entry.is_symlink()
        and (name in around or name.startswith("tokenizer/") or is_packed_file(name))
        and not is_hub_link(folder / name)
    ]


def special_files(folder: Path) -> list[str]:
    """Pipes, sockets and devices below that have the name of something tokpack writes."""
    return [
        name
        for name, entry in entries_below(folder)
        if is_packed_file(name) and not (is_plain(name, entry) or entry.is_symlink())
    ]


def is_hub_link(path: Path) -> bool:
    """A link as the cache of huggingface_hub has them: `snapshots/REVISION/NAME` to a file in `blobs`."""
    above = path.absolute().parents
    hub = next((p.parent for p in above if p.name == "snapshots"), None)
    if hub is None:
        return False
    target = path.resolve()
    return target.parent == (hub / "blobs").resolve() and target.is_file()


def remove_own(folder: Path, own: Own, *, stays: bool = False) -> list[str]:
    """Delete the own files below, and the folders in which nothing is left then. Returns what is left.

    `folder` itself `stays`, and in any case when it holds anything; a link to a folder is left as it is.
    """
    if not is_real_folder(folder):
        return [folder.name] if os.path.lexists(folder) else []
    left, around = [], {folder}
    for name, entry in entries_below(folder):
        if own(name) and is_plain(name, entry):
            remove = Path.rmdir if name.endswith("/") else Path.unlink
            remove(folder / name)
            around.update((folder / name).parents[: name.count("/")])
        else:
            left.append(name)
    if stays:
        around.discard(folder)
    for inside in sorted(around, key=lambda path: -len(path.parts)):
        with suppress(OSError):  # not empty
            inside.rmdir()
    return left


def is_real_folder(folder: Path) -> bool:
    """A folder itself, no link to one."""
    try:
        return stat.S_ISDIR(folder.lstat().st_mode)
    except OSError:
        return False


def is_mine(folder: Path) -> bool:
    """A real folder of this user, which nobody else may write into: what lies there is this user's own."""
    return _is_mine(folder, stat.S_ISDIR)


def is_my_file(path: Path) -> bool:
    """A real file of this user, which nobody else may write."""
    return _is_mine(path, stat.S_ISREG)


def _is_mine(path: Path, is_kind: Callable[[int], bool]) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    if not is_kind(status.st_mode):
        return False
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
