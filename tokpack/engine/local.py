"""Run a function over blocks on this machine, several at a time, results in input order.

Threads are enough where Arrow, polars and the tokenizers work, which leave the interpreter lock; `processes`
has helpers for the rest.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Like `map`, with at most `workers` + 1 items in flight; the first error stops the rest."""
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="tokpack") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def release_memory() -> None:
    """Give back to the system what allocators keep for another block."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


class _NoPandas:
    """Among the finders of modules: pandas is not found."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("passed over", name=name)


def pass_over_pandas() -> None:
    """Arrow looks for pandas when it is given its first list, which takes a third of a second; no command has
    a frame for it. It looks again where it cannot do without."""
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)
