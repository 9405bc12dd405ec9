"""A token store behind a URL, s3://BUCKET/PREFIX or any of fsspec's, that parts on machines without a shared
folder fill. Who finishes fetches it into a folder.

    run.json                                  the settings of the run, as in a folder
    batch-00007.0b7c...92.arrow               tokens, named by their digest: twins write the same object
    batch-00007.docs.arrow                    documents, put last and only where there are none yet

The documents hold the digest of their tokens, and end in one of themselves: an object that was cut off, where
a store shows such, counts as none. There is no lock, and nothing is renamed, which object stores cannot do.
Where the store knows no conditional put, the last of two twins counts: its tokens are there as well.
"""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokpack.errors import DataError, OutputError, UsageError
from tokpack.packed_urls import explained, file_system, is_url
from tokpack.terminal.activity import Activity
from tokpack.way.store import Key, TokenStore, batch_name, docs_name, parsed_docs
from tokpack.way.store_record import RECORD, digest_of, not_there, parsed_record, record_of, refuse_other

log = logging.getLogger("tokpack")

OBJECTS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "r2"}
"""Stores without folders: asked for one, some make a bucket."""
THREADS = 8
IN_FLIGHT = 16
"""Batches in memory that are on their way."""
DOCS = re.compile(r"batch-(\d{5,9})(?:-(\d{5,9}))?\.docs\.arrow")
OWN = re.compile(r"batch-\d{5,9}(-\d{5,9})?\.(docs|[0-9a-f]{32})\.arrow")


class BucketStore(TokenStore):
    """The store at `url`, for filling; `anew`: what another run left there is removed.

    Raises UsageError when it belongs to another run, or with `joins` where no run has begun it; OutputError
    for a bucket that is not there, or that refuses us.
    """

    def __init__(
        self, url: str, fingerprint: dict[str, Any], joins: bool = False, anew: bool = False
    ) -> None:
        self.url, self.lasts = url.rstrip("/"), True
        self._run = digest_of(fingerprint)
        self._behind = ThreadPoolExecutor(THREADS, thread_name_prefix="tokpack-put")
        self._putting: deque[Future[None]] = deque()
        self.made_again: set[Key] = set()
        self._made: set[str] = set()
        if self.url.startswith("hf://"):
            raise UsageError(
                "each file put there is a commit of the repository",
                where=f"--work-dir {url}",
                hint="give a bucket, s3://BUCKET/PREFIX, or a folder that all nodes see",
            )
        with explained(self.url, writes=True):
            self._fs, self._root = file_system(self.url)
            if anew:
                self.remove()
            self._names = self._listed()
        self._begun = {name for name in self._names if DOCS.fullmatch(name)}
        found = self._record()
        if found is None and joins:
            raise not_there(self.url)
        if found is not None and (self._begun or joins):
            refuse_other(found, fingerprint, self.url, "another --work-dir")
        else:
            with explained(self.url, writes=True):
                if not OBJECTS & {self.url.split("://")[0]}:
                    self._fs.makedirs(self._root, exist_ok=True)
                self._fs.pipe_file(f"{self._root}/{RECORD}", record_of(fingerprint))

    @property
    def place(self) -> str:
        return self.url

    def fetch(self, store: TokenStore, tell: Activity) -> None:
        """Commit into a store in a folder every batch that it lacks; what is damaged is left."""
        wanted = [key for name in sorted(self._begun) if not store.is_begun(key := _key(name))]
        if not wanted:
            return
        with (
            tell.doing(f"fetching blocks from {self.url}", len(wanted), "blocks") as advance,
            ThreadPoolExecutor(THREADS) as pool,
        ):
            for _ in pool.map(lambda key: self._fetch(key, store), wanted):
                advance(1, "")
        store.settle()

    def _fetch(self, key: Key, store: TokenStore) -> None:
        try:
            docs = self._read(docs_name(key))
            _, meta = parsed_docs(docs, self.url)
            tokens = self._read(f"{batch_name(key)}.{meta['tokens']}.arrow")
            right = store.take(key, tokens, docs)
        except (DataError, FileNotFoundError, pa.ArrowException, KeyError):
            right = False
        if not right:
            store.made_again.add(key)

    def settle(self) -> None:
        """Wait until every batch is there. Where the run was finished meanwhile, and its store removed, what
        was put since is removed."""
        while self._putting:
            self._putting.popleft().result()
        if self._made and not self._goes_on():
            with left_with_a_warning(self.url), explained(self.url, writes=True):
                self._remove(self._made)
        self._made = set()

    def remove(self) -> None:
        """Delete the store's own objects, the record first: see `settle`."""
        with explained(self.url, writes=True):
            self._remove({RECORD})
            self._remove({name for name in self._listed() if OWN.fullmatch(name)})

    def _put(self, key: Key, tokens: pa.Buffer | bytes, digest: str, docs: bytes) -> None:
        with suppress(IndexError):
            while len(self._putting) >= IN_FLIGHT:
                self._putting.popleft().result()
        self._putting.append(self._behind.submit(self._put_now, key, bytes(tokens), digest, docs))

    def _put_now(self, key: Key, tokens: bytes, digest: str, docs: bytes) -> None:
        names = f"{batch_name(key)}.{digest}.arrow", docs_name(key)
        self._made.update(names)
        with explained(self.url, writes=True):
            self._fs.pipe_file(f"{self._root}/{names[0]}", tokens)
            if key in self.made_again:
                self._fs.pipe_file(f"{self._root}/{names[1]}", docs)
            else:
                self._put_once(f"{self._root}/{names[1]}", docs)

    def _put_once(self, path: str, data: bytes) -> None:
        """Where a twin was first, it stays: If-None-Match on S3, what stands for it elsewhere."""
        try:
            self._fs.pipe_file(path, data, mode="create")
        except Exception:  # each library raises its own, and some stores know no such put
            self._fs.invalidate_cache()
            if not self._fs.exists(path):
                self._fs.pipe_file(path, data)

    def _are_there(self, key: Key, digest: str) -> bool:
        return f"{batch_name(key)}.{digest}.arrow" in self._names

    def _read_docs(self, key: Key) -> tuple[pa.Table, dict[str, Any]]:
        return parsed_docs(self._read(docs_name(key)), self.url)

    def _input_bytes(self, name: str) -> int:
        return 0  # nobody reads all of them to say how far it is

    def _read(self, name: str) -> bytes:
        with explained_reading(self.url):
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))

    def _record(self) -> dict[str, Any] | None:
        try:
            return parsed_record(self._read(RECORD))
        except FileNotFoundError:
            return None

    def _goes_on(self) -> bool:
        try:
            return bool(self._read(RECORD))
        except FileNotFoundError:
            return False

    def _listed(self) -> set[str]:
        self._fs.invalidate_cache()
        try:
            return {path.rpartition("/")[2] for path in self._fs.ls(self._root, detail=False)}
        except FileNotFoundError:
            return set()

    def _remove(self, names: set[str]) -> None:
        if there := names & self._listed():
            with suppress(FileNotFoundError):
                self._fs.rm([f"{self._root}/{name}" for name in sorted(there)])


def open_store(
    place: Path | str, fingerprint: dict[str, Any], lasts: bool = True, joins: bool = False
) -> TokenStore:
    """The store that another process named by its `place`."""
    if isinstance(place, str):
        return BucketStore(place, fingerprint, joins)
    return TokenStore(place, fingerprint, lasts, joins)


def bucket_of(work_dir: str | os.PathLike[str] | None) -> str | None:
    """The URL that a `--work-dir` is; None for a folder."""
    if work_dir is None or not is_url(work_dir):
        return None
    url = os.fspath(work_dir)
    if url.startswith("file://"):
        raise UsageError(
            "a folder is given by its path", where=f"--work-dir {url}", hint=url[len("file://") :]
        )
    return url


def remove_bucket(url: str, fingerprint: dict[str, Any]) -> None:
    """The store that a run with these settings left, which was cut off after its last file."""
    with suppress(UsageError), left_with_a_warning(url):
        BucketStore(url, fingerprint, joins=True).remove()


def remove_stores(*stores: TokenStore | None) -> None:
    for store in stores:
        if store is not None:
            with left_with_a_warning(str(store.place)):
                store.remove()


@contextmanager
def left_with_a_warning(url: str) -> Iterator[None]:
    """Where a bucket lets nothing be deleted, what is finished stays so."""
    try:
        yield
    except OutputError as error:
        log.warning("the token store %s is left: %s; delete it yourself", url, error.what)


@contextmanager
def explained_reading(url: str) -> Iterator[None]:
    """As `explained`, but that an object is not there is for the caller, and one that is refused is none that
    is damaged."""
    missing: FileNotFoundError | None = None
    with explained(url, kind=OutputError):
        try:
            yield
        except FileNotFoundError as error:
            missing = error
    if missing is not None:
        raise missing


def _key(name: str) -> Key:
    found = DOCS.fullmatch(name)
    assert found is not None
    return int(found[1]), int(found[2] or 0)
