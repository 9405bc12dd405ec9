"""What Jinja makes of a chat template, kept for the next process: of a long one it takes a tenth of a second,
three times over.

As Python keeps the code of modules: in a folder that this user alone can write into, in files of the user's
own, named by a digest of all that the code comes from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import CodeType

from tokpack.errors import OutputError
from tokpack.files.own_files import is_my_file
from tokpack.files.user_cache import own_cache
from tokpack.version import __version__

SHORT = 1_000
"""Characters: what is shorter is compiled as soon as it is read."""
_DIGEST = hashlib.sha256().digest_size


def kept_code(kind: str, source: str, make: Callable[[], CodeType]) -> CodeType:
    """What `make` gives, or gave before, for a template; `kind` says what else it does than Jinja."""
    if len(source) < SHORT:
        return make()
    key = hashlib.sha256(f"{_made_by()}\n{kind}\n{source}".encode("utf-8", "surrogatepass")).digest()
    try:
        place = own_cache("templates") / f"{key.hex()[:40]}.code"
    except OutputError:
        return make()
    with suppress(OSError, ValueError, EOFError, TypeError):
        if is_my_file(place) and (code := _read(place.read_bytes(), key)) is not None:
            return code
    code = make()
    with suppress(OSError):
        _write(place, key, marshal.dumps(code))
    return code


def _read(data: bytes, key: bytes) -> CodeType | None:
    """None for a file that was cut, or is of something else."""
    written, code = data[:_DIGEST], data[_DIGEST:]
    return marshal.loads(code) if written == hashlib.sha256(key + code).digest() else None


def _write(place: Path, key: bytes, code: bytes) -> None:
    handle, part = tempfile.mkstemp(dir=place.parent, prefix=".part-")
    with os.fdopen(handle, "wb") as file:
        file.write(hashlib.sha256(key + code).digest() + code)
    Path(part).replace(place)


@cache
def _made_by() -> str:
    """Versions, and the code that renders: what Jinja is told of loops, limits, notes and symbols."""
    own = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        own.update(path.read_bytes())
    return f"{__version__} {version('jinja2')} {importlib.util.MAGIC_NUMBER.hex()} {own.hexdigest()}"
