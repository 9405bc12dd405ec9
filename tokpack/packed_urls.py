"""Packed datasets behind URLs, fetched into the cache with every sum compared.

    hf://datasets/USER/NAME[/FOLDER]      the Hugging Face Hub
    s3:// gs:// file:// memory:// ...     any file system of fsspec

The sums are the identity: what is fetched lies in the cache under the digest of its `SHA256SUMS`, so one
packed dataset is fetched once wherever it comes from, and a changed one is another.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tokpack.errors import FULL, DataError, OutputError, TokpackError, UsageError, system_error
from tokpack.files.durable import sync_tree
from tokpack.files.user_cache import own_cache, scratch_in
from tokpack.on_disk.sums import MOST_BYTES, read_sums
from tokpack.schema import SUMS
from tokpack.stages.read.remote import EXTRAS
from tokpack.terminal.activity import Activity, default_activity
from tokpack.terminal.interrupts import leftover
from tokpack.terminal.printable import without_secrets

THREADS = 8
CHUNK = 1 << 22

_urls: dict[Path, str] = {}
"""Of the folders in the cache that this process opened, the URL of each."""


def is_url(place: str | os.PathLike[str]) -> bool:
    return "://" in os.fspath(place)


def local_folder(place: str | os.PathLike[str], tell: Activity | None = None) -> Path:
    """The folder itself, or of a URL the copy in the cache, fetched now when it is not there.

    Raises UsageError for a URL behind which no packed dataset lies, DataError for one that is damaged.
    """
    if not is_url(place):
        return Path(place)
    url = os.fspath(place).rstrip("/")
    with explained(url):
        fs, root = file_system(url)
        try:
            with fs.open(f"{root}/{SUMS}", "rb") as file:
                sums = file.read(MOST_BYTES)
        except FileNotFoundError:
            raise UsageError(
                f"no packed dataset there: no {SUMS}",
                where=url,
                hint="`tokpack push PACKED URL` puts one there",
            ) from None
        folder = own_cache("packed") / hashlib.sha256(sums).hexdigest()[:32]
        if not (folder / SUMS).is_file():
            with (tell or default_activity()).doing(f"fetching {url}"):
                _fetch(fs, root, url, sums, folder)
    _urls[folder] = without_secrets(url)
    return folder


def place_of(folder: Path) -> str:
    """The folder as its user knows it: the URL that it was fetched from, or its path."""
    return _urls.get(folder, str(folder))


def name_of(folder: Path) -> str:
    """The last part of that."""
    return PurePosixPath(_urls[folder]).name if folder in _urls else folder.resolve().name


def _fetch(fs: Any, root: str, url: str, sums: bytes, folder: Path) -> None:
    """All listed files into a new folder beside `folder`, which becomes it when every sum agrees."""
    scratch = scratch_in(folder.parent)
    with leftover(scratch):
        try:
            (scratch / SUMS).write_bytes(sums)
            listed = read_sums(scratch)
            for name in listed:
                _check_name(name, url)
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda name: _fetch_file(fs, root, url, name, listed[name], scratch), listed))
            sync_tree(scratch)
            if not (folder / SUMS).is_file():
                scratch.replace(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _fetch_file(fs: Any, root: str, url: str, name: str, wanted: str, folder: Path) -> None:
    digest = hashlib.sha256()
    with fs.open(f"{root}/{name}", "rb") as source, (folder / name).open("wb") as target:
        while data := source.read(CHUNK):
            digest.update(data)
            target.write(data)
    if digest.hexdigest() != wanted:
        raise DataError(
            f"{name} is damaged: its sum differs", where=f"{url}/{name}", hint="push the packed dataset again"
        )


def _check_name(name: str, url: str) -> None:
    """A name in foreign sums leads nowhere but into the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or name == SUMS:
        raise DataError(
            f"a file name that leads elsewhere: {name}", where=f"{url}/{SUMS}", hint="do not use it"
        )


def file_system(url: str) -> tuple[Any, str]:
    import fsspec

    fresh = {"skip_instance_cache": True} if url.startswith("hf://") else {}  # it remembers what is not there
    fs, root = fsspec.core.url_to_fs(url, **fresh)
    return fs, root.rstrip("/")


@contextmanager
def explained(url: str, writes: bool = False, kind: type[TokpackError] | None = None) -> Iterator[None]:
    """Errors of the file systems, each library's own, in our words, and of the `kind` that is given."""
    scheme = url.split("://", 1)[0]
    try:
        yield
    except TokpackError:
        raise
    except ImportError as error:
        hint = EXTRAS.get(scheme, "install the fsspec implementation it names")
        raise UsageError(
            f"{scheme}:// needs a library that is not installed: {error}", where=url, hint=hint
        ) from None
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        hint = "check the URL, its rights and the credentials in the environment (`hf auth login`, AWS_...)"
        if (number := system_error(error)) in FULL:
            first, hint = os.strerror(number), "free some space and repeat the command"
        kind = kind or (OutputError if writes else DataError)
        raise kind(f"cannot {'write' if writes else 'open'} it: {first}", where=url, hint=hint) from None
