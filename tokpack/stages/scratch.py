"""Arrays that may be larger than memory: files without a name in a folder, mapped.

The system writes their pages to the disk when memory is short, and takes the files away with the process,
however it ends: nothing is left to be removed.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
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
            return self._mapped(file.fileno(), count, dtype).reshape(shape)

    def written(self, count: int, dtype: npt.DTypeLike) -> tuple[Array, Callable[[int, Array], None]]:
        """An array, and what writes values to a place of it: into its file, which costs no page fault, and no
        zeros where values come to lie."""
        if self.folder is None or not count:
            array = np.zeros(count, dtype)

            def put(at: int, values: Array) -> None:
                array[at : at + len(values)] = values

            return array, put
        file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - open as long as there is a writer
        array = self._mapped(file.fileno(), count, np.dtype(dtype))

        def write(at: int, values: Array) -> None:
            data, place = values.view(np.uint8).data, at * values.itemsize
            while len(data):
                done = os.pwrite(file.fileno(), data, place)
                data, place = data[done:], place + done

        return array, write

    def _mapped(self, file: int, count: int, dtype: np.dtype[Any]) -> Array:
        size = count * dtype.itemsize
        if hasattr(os, "posix_fallocate"):  # a page that finds no room later would end the process
            os.posix_fallocate(file, 0, size)
        else:
            os.truncate(file, size)
        pages = mmap.mmap(file, size)
        self._maps.append(pages)
        return np.frombuffer(pages, dtype)

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
