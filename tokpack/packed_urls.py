"""Packed datasets behind URLs: fetched into the cache with every sum compared, and pushed with a card.

    hf://datasets/USER/NAME[/FOLDER]      the Hugging Face Hub, in one commit
    s3:// gs:// file:// memory:// ...     any file system of fsspec, `SHA256SUMS` last

The sums are the identity: what is fetched lies in the cache under the digest of its `SHA256SUMS`, so one
packed dataset is fetched once wherever it comes from, and a changed one is another.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tokpack.activity import Activity, default_activity
from tokpack.card import CARD, make_card
from tokpack.errors import DataError, OutputError, TokpackError, UsageError
from tokpack.interrupts import leftover
from tokpack.schema import SUMS
from tokpack.stages.read.remote import EXTRAS
from tokpack.sums import MOST_BYTES, file_sha256, read_sums
from tokpack.user_cache import own_cache

if TYPE_CHECKING:
    from tokpack.packed.folder import PackedFolder

THREADS = 8
CHUNK = 1 << 22
HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:/(.*))?")


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
    return folder


def _fetch(fs: Any, root: str, url: str, sums: bytes, folder: Path) -> None:
    """All listed files into a new folder beside `folder`, which becomes it when every sum agrees."""
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    with leftover(scratch):
        try:
            (scratch / SUMS).write_bytes(sums)
            listed = read_sums(scratch)
            for name in listed:
                _check_name(name, url)
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda name: _fetch_file(fs, root, url, name, listed[name], scratch), listed))
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


# Push


def push(
    packed: str | os.PathLike[str],
    url: str,
    *,
    overwrite: bool = False,
    private: bool = False,
    tell: Activity | None = None,
) -> str:
    """Copy a packed dataset to a URL, with a dataset card made from its ledger and manifest. Returns the URL.

    The same one there already is left as it is; another one needs `overwrite`. `private` is for a new
    repository on the Hub. Raises UsageError, DataError for a packed dataset whose sums differ, OutputError
    when it cannot be written.
    """
    from tokpack.packed.folder import PackedFolder

    source = PackedFolder(local_folder(packed))
    url = url.rstrip("/")
    if not is_url(url):
        raise UsageError(
            "not a URL", where=url, hint="hf://datasets/USER/NAME, s3://BUCKET/FOLDER, file:///..."
        )
    tell = tell or default_activity()
    listed = read_sums(source.folder)
    with tell.doing("comparing sums"):
        for name, digest in listed.items():
            if file_sha256(source.folder / name) != digest:
                raise DataError(f"{name} is damaged", where=str(source.folder), hint="run `tokpack verify`")
    sums = (source.folder / SUMS).read_bytes()
    files = [*listed, SUMS]
    card = make_card(source.manifest, url, validation=source.validation is not None).encode()
    with explained(url, writes=True):
        there = _sums_there(url)
        if there == sums:
            tell.say(f"already there, unchanged: {url}")
            return url
        if there is not None and not overwrite:
            raise UsageError("another packed dataset is there", where=url, hint="--overwrite, or another URL")
        with tell.doing(f"pushing to {url}", len(files), "files") as advance:
            if hub := HUB.fullmatch(url):
                _push_to_hub(hub[1], hub[2] or "", source.folder, files, card, private)
            else:
                fs, root = file_system(url)
                if there is not None:
                    fs.rm_file(f"{root}/{SUMS}")  # until the new sums are there, it is no packed dataset
                _remove_shards(fs, root, set(files))
                for name in files:
                    fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
                    fs.put_file(str(source.folder / name), f"{root}/{name}")
                    advance(1, "")
                fs.pipe_file(f"{root}/{CARD}", card)
    return url


def write_to(
    url: str, write: Callable[[Path], PackedFolder], overwrite: bool, tell: Activity | None
) -> PackedFolder:
    """Have a packed dataset written into the cache, and pushed to `url`; a copy stays, as of what is fetched.

    A killed run goes on in the cache. Where one is at the URL, `write` says whether it is this one.
    """
    url = url.rstrip("/")
    with explained(url):
        there = _sums_there(url)
    if there is not None and not overwrite:
        folder = local_folder(url, tell)
        try:
            return write(folder)
        except UsageError as error:
            error.where = url if error.where == str(folder) else error.where
            raise
    made = own_cache("outputs") / hashlib.sha256(url.encode()).hexdigest()[:32]
    packed = write(made)
    push(made, url, overwrite=overwrite, tell=tell)
    folder = own_cache("packed") / hashlib.sha256((made / SUMS).read_bytes()).hexdigest()[:32]
    if (folder / SUMS).is_file():
        shutil.rmtree(made)
    else:
        made.replace(folder)
    return type(packed)(folder)


def _sums_there(url: str) -> bytes | None:
    fs, root = file_system(url)
    try:
        with fs.open(f"{root}/{SUMS}", "rb") as file:
            return bytes(file.read(MOST_BYTES))
    except FileNotFoundError:
        return None


def _push_to_hub(repo: str, inside: str, folder: Path, files: list[str], card: bytes, private: bool) -> None:
    """All files in one commit: a reader sees the old packed dataset or the new one."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    at = f"{inside}/" if inside else ""
    adds = [CommitOperationAdd(f"{at}{name}", str(folder / name)) for name in files]
    adds.append(CommitOperationAdd(f"{at}{CARD}", card))
    new = {add.path_in_repo for add in adds}
    old = [name for name in api.list_repo_files(repo, repo_type="dataset") if _is_shard(name, at)]
    deletes = [CommitOperationDelete(name) for name in old if name not in new]
    message = "Packed dataset, by tokpack push"
    api.create_commit(repo, [*deletes, *adds], commit_message=message, repo_type="dataset")


def _remove_shards(fs: Any, root: str, keep: set[str]) -> None:
    """Those of a packed dataset that is replaced, under names that the new one does not write."""
    for inside in ("", "validation/"):
        try:
            found = fs.ls(f"{root}/{inside}".rstrip("/"), detail=False)
        except FileNotFoundError:
            continue
        for path in found:
            name = inside + str(path).rstrip("/").rpartition("/")[2]
            if _is_shard(name, "") and name not in keep:
                fs.rm_file(path)


def _is_shard(name: str, at: str) -> bool:
    """Of a packed dataset that the new one replaces."""
    return bool(re.fullmatch(rf"{re.escape(at)}(validation/)?data-\d+-of-\d+\.(arrow|parquet)", name))


def file_system(url: str) -> tuple[Any, str]:
    import fsspec

    fresh = {"skip_instance_cache": True} if url.startswith("hf://") else {}  # it remembers what is not there
    fs, root = fsspec.core.url_to_fs(url, **fresh)
    return fs, root.rstrip("/")


@contextmanager
def explained(url: str, writes: bool = False) -> Iterator[None]:
    """Errors of the file systems, each library's own, in our words."""
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
        kind = OutputError if writes else DataError
        raise kind(f"cannot {'write' if writes else 'open'} it: {first}", where=url, hint=hint) from None
