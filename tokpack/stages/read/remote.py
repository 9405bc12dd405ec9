"""URLs (s3://, gs://, hf://, https://, memory://) -> the files behind them, through fsspec.

Credentials and endpoints come from where the file system's own library finds them: `AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`, `HF_TOKEN`, ...
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from tokpack.errors import DataError, UsageError
from tokpack.frozen import frozen
from tokpack.terminal.printable import without_query

EXTRAS = {
    "s3": 'pip install "tokpack[s3]"',
    "s3a": 'pip install "tokpack[s3]"',
    "gs": "pip install gcsfs",
    "gcs": "pip install gcsfs",
    "http": "pip install aiohttp",
    "https": "pip install aiohttp",
}


@frozen
class RemoteFile:
    url: str
    name: str
    """Its own name; in a folder, the path from there."""
    size_bytes: int | None
    version: str = ""
    """What changes with its content, where the store says so: the ETag on S3."""


def list_remote(url: str, is_data: Callable[[str], bool]) -> list[RemoteFile]:
    """The file, the matches of a glob, or the data files of a folder, in a stable order.

    Raises UsageError for what is not there, cannot be reached, or needs a library that is not installed.
    """
    import fsspec  # late: only remote inputs need it

    with _explained(url):
        fs, _, paths = fsspec.get_fs_token_paths(url)
        infos = [fs.info(path) for path in sorted(paths)]
        if len(infos) == 1 and infos[0]["type"] == "directory":
            folder = infos[0]["name"].rstrip("/") + "/"
            inside = [name for name in sorted(fs.find(folder)) if is_data(name)]
            found = [(fs.info(name), name.removeprefix(folder)) for name in inside]
        else:
            found = [(info, without_query(info["name"]).rsplit("/", 1)[-1]) for info in infos]
        files = [
            RemoteFile(fs.unstrip_protocol(info["name"]), name, info.get("size"), str(info.get("ETag") or ""))
            for info, name in found
        ]
    if not files:
        what = "no data file in this folder" if infos else "nothing matches"
        raise UsageError(
            what, where=url, hint="check the spelling; `*` matches within one folder, `**` below it"
        )
    return files


def open_remote(url: str) -> IO[bytes]:
    """Raises DataError when the object cannot be opened or, later, read."""
    import fsspec

    with _told(url, "open", "check url and rights"):
        return cast(IO[bytes], _Remote(fsspec.open(url, "rb").open(), url))


class _Remote(io.RawIOBase):
    """A remote file whose errors are ours."""

    def __init__(self, file: IO[bytes], url: str) -> None:
        self._file, self._url = file, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        with _told(self._url, "read", "check the connection, and repeat the command"):
            return self._file.read(size)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def _told(url: str, what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each library raises its own
        raise DataError(f"cannot {what}: {_first_line(error)}", where=url, hint=hint) from None


@contextmanager
def _explained(url: str) -> Iterator[None]:
    scheme = url.split("://", 1)[0]
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"{scheme}:// needs a library that is not installed: {_first_line(error)}",
            where=url,
            hint=EXTRAS.get(scheme, "install the fsspec implementation it names"),
        ) from None
    except FileNotFoundError:
        raise UsageError("no such object", where=url, hint="check bucket, path and rights") from None
    except Exception as error:
        raise UsageError(
            f"cannot open: {_first_line(error)}",
            where=url,
            hint="check the url, and the credentials and endpoint in the environment (AWS_ENDPOINT_URL, ...)",
        ) from None


def _first_line(error: Any) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
