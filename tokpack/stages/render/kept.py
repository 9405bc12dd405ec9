"""What is learned of a chat template, kept for the next process.

As Python keeps the code of modules: in a folder that this user alone can write into, in files of the user's
own, named by a digest of all that the content comes from, the code that renders included.
"""

from __future__ import annotations

import hashlib
import importlib.util
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from tokpack.errors import OutputError
from tokpack.files.user_cache import own_cache, read_own, write_own
from tokpack.version import __version__

_DIGEST = hashlib.sha256().digest_size


class Kept:
    """One thing that is kept, of a kind, by the text of all that it comes from beside our own code."""

    def __init__(self, kind: str, source: str) -> None:
        self._key = hashlib.sha256(f"{_made_by()}\n{source}".encode("utf-8", "surrogatepass")).digest()
        self._place: Path | None = None
        with suppress(OutputError):
            self._place = own_cache("templates") / f"{self._key.hex()[:40]}.{kind}"

    def read(self) -> bytes | None:
        """None where nothing is kept, or the file was cut or is of something else."""
        data = read_own(self._place) if self._place is not None else None
        written, content = (data or b"")[:_DIGEST], (data or b"")[_DIGEST:]
        return content if written == hashlib.sha256(self._key + content).digest() else None

    def write(self, content: bytes) -> None:
        if self._place is not None:
            write_own(self._place, hashlib.sha256(self._key + content).digest() + content)


@cache
def _made_by() -> str:
    """Versions, and the code that renders: what Jinja is told of loops, limits, notes and symbols."""
    own = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        own.update(path.read_bytes())
    return f"{__version__} {version('jinja2')} {importlib.util.MAGIC_NUMBER.hex()} {own.hexdigest()}"
