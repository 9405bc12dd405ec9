"""Arrays that may be larger than memory: files without a name in a folder, mapped.

The system writes their pages to the disk when memory is short, and takes the files away with the process,
however it ends: nothing is left to be removed.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Scratch:
    """Makes arrays in `folder`; without one, in memory. A full disk raises OSError when an array is made."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._maps: list[mmap.mmap] = []

    def zeros(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Fresh ones hold zeros. They live as long as they are used, the files too."""
        shape, dtype = (shape,) if isinstance(shape, int) else shape, np.dtype(dtype)
        count = int(np.prod(shape))
        if self.folder is None or not count:
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            size = count * dtype.itemsize
            if hasattr(os, "posix_fallocate"):  # a page that finds no room later would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            pages = mmap.mmap(file.fileno(), size)
        self._maps.append(pages)
        return np.frombuffer(pages, dtype).reshape(shape)

    def full(self, shape: int, value: int, dtype: npt.DTypeLike) -> Array:
        array = self.zeros(shape, dtype)
        array[:] = value
        return array

    def release(self) -> None:
        """Pages of the arrays stop counting as memory of this process; they are read again when needed."""
        for pages in self._maps:
            advise(pages, "MADV_DONTNEED")


def advise(pages: mmap.mmap, name: str, *place: int) -> None:
    """Tell the system, where it knows such an advice, what is wanted of a map, or of a part of it."""
    with suppress(AttributeError, OSError, ValueError):  # the map may be closed
        pages.madvise(getattr(mmap, name), *place)
