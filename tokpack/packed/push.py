"""A packed dataset to a URL, with a card made from its ledger and manifest.

On the Hugging Face Hub in one commit; elsewhere `SHA256SUMS` last, for until it is there nothing is.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokpack.errors import DataError, UsageError
from tokpack.files.user_cache import own_cache
from tokpack.on_disk.card import CARD, make_card
from tokpack.on_disk.manifest import SHARD_NAME
from tokpack.on_disk.sums import MOST_BYTES, file_sha256, read_sums
from tokpack.packed.folder import PackedFolder
from tokpack.packed_urls import explained, file_system, is_url, local_folder
from tokpack.schema import SUMS, TOKEN_FILES
from tokpack.terminal.activity import Activity, default_activity

HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:/(.*))?")


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
    url = _place(url)
    source = PackedFolder(local_folder(packed))
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
                fs.makedirs(root, exist_ok=True)
                fs.pipe_file(f"{root}/{CARD}", card)
                for name in files:
                    fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
                    fs.put_file(str(source.folder / name), f"{root}/{name}")
                    advance(1, "")
    return url


def _place(url: str) -> str:
    """Raises UsageError where no packed dataset can be put."""
    url = url.rstrip("/")
    if not is_url(url) or (url.startswith("hf://") and not HUB.fullmatch(url)):
        raise UsageError(
            "no place for a packed dataset",
            where=url,
            hint="hf://datasets/USER/NAME, s3://BUCKET/FOLDER, file:///...",
        )
    return url


def write_to(
    url: str, write: Callable[[Path], PackedFolder], overwrite: bool, tell: Activity | None
) -> PackedFolder:
    """Have a packed dataset written into the cache, and pushed to `url`; a copy stays, as of what is fetched.

    A killed run goes on in the cache. Where one is at the URL, `write` says whether it is this one.
    """
    url = _place(url)
    with explained(url):
        there = _sums_there(url)
    made = own_cache("outputs") / hashlib.sha256(url.encode()).hexdigest()[:32]
    pushed = (made / SUMS).is_file() and (made / SUMS).read_bytes() == there  # and killed before it moved
    folder = made if there is None or overwrite or pushed else local_folder(url, tell)
    try:
        packed = write(folder)
    except UsageError as error:
        error.where = url if error.where == str(folder) else error.where
        raise
    if folder != made:
        return packed
    push(made, url, overwrite=overwrite, tell=tell)
    folder = own_cache("packed") / hashlib.sha256((made / SUMS).read_bytes()).hexdigest()[:32]
    if (folder / SUMS).is_file():
        shutil.rmtree(made)
    else:
        made.replace(folder)
    return type(packed)(folder)


def _sums_there(url: str) -> bytes | None:
    """None also for an empty file, as a push leaves it that was killed there."""
    fs, root = file_system(url)
    try:
        with fs.open(f"{root}/{SUMS}", "rb") as file:
            return bytes(file.read(MOST_BYTES)) or None
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
    for inside in ("", "tokens/", "validation/", "validation/tokens/"):
        try:
            found = fs.ls(f"{root}/{inside}".rstrip("/"), detail=False)
        except FileNotFoundError:
            continue
        for path in found:
            name = inside + str(path).rstrip("/").rpartition("/")[2]
            if _is_shard(name, "") and name not in keep:
                fs.rm_file(path)
        if inside and "file" in fs.protocol:  # other storage has no empty folders
            with suppress(OSError):
                Path(root, inside).rmdir()


def _is_shard(name: str, at: str) -> bool:
    """Of a packed dataset that the new one replaces."""
    inside = name.removeprefix(at).removeprefix("validation/")
    return name.startswith(at) and (inside in TOKEN_FILES or SHARD_NAME.fullmatch(inside) is not None)
