"""Columns of all documents, filled batch by batch: what stays in memory of each of them.

A column is an array of its own, made anew at twice the size when it is full: it keeps no file alive that it
was read from, and what is not filled yet takes no memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack.errors import DataError
from tokpack.schema import VARIANT

MOST = np.iinfo(np.int32).max
"""Documents, pieces and lines of a source: their numbers have 32 bits."""
REASON = pl.Categorical(pl.Categories("drop_reason", "tokpack", pl.UInt16))
"""Of a reason in memory: a number."""
NUMBERS = {"doc_id": np.int32, "document": np.int32, "row": np.int32}
"""Narrower in memory than in the store."""
SMALL = frozenset({"source", "cut", "trained", VARIANT})
"""From 0 up, and as narrow as the largest of them allows: only what no sum or product is made of as it is."""


class GrowingColumn:
    """Numbers that come batch by batch."""

    def __init__(self, dtype: npt.DTypeLike, small: bool = False) -> None:
        self._values, self._count = np.empty(0, np.int8 if small else dtype), 0
        self._small = small

    def add(self, some: npt.NDArray[Any]) -> None:
        end, dtype = self._count + len(some), self._values.dtype
        if self._small:
            dtype = np.promote_types(dtype, np.min_scalar_type(-1 - int(some.max(initial=0))))
        if end > len(self._values) or dtype != self._values.dtype:
            size = len(self._values) if end <= len(self._values) else max(end, 2 * len(self._values))
            larger = np.empty(size, dtype)
            larger[: self._count] = self.values
            self._values = larger
        self._values[self._count : end] = some
        self._count = end

    @property
    def values(self) -> npt.NDArray[Any]:
        return self._values[: self._count]


class GrowingFrame:
    """A frame that comes batch by batch, each with the columns of the first."""

    def __init__(self) -> None:
        self._columns: dict[str, GrowingColumn] = {}
        self._others: dict[str, list[pl.Series]] = {}
        self._names: list[str] = []

    def add(self, batch: pl.DataFrame) -> None:
        self._names = batch.columns
        for some in batch.cast({"drop_reason": REASON} if "drop_reason" in batch.columns else {}):
            if not some.dtype.is_integer():
                copied = some.gather(np.arange(len(some)))  # lies in the file otherwise
                self._others.setdefault(some.name, []).append(copied)
                continue
            values = some.to_numpy()
            if some.name not in self._columns:
                self._columns[some.name] = GrowingColumn(
                    NUMBERS.get(some.name, values.dtype), some.name in SMALL
                )
            self._columns[some.name].add(values)

    def frame(self) -> pl.DataFrame:
        """All rows. Numbers are handed over, not copied."""
        found: dict[str, Any] = {name: column.values for name, column in self._columns.items()}
        found |= {name: pl.concat(parts, rechunk=True) for name, parts in self._others.items()}
        return pl.DataFrame({name: found[name] for name in self._names})


def check_number(count: int, what: str) -> None:
    """Raises DataError for more of `what` than their numbers can tell apart."""
    if count > MOST:
        raise DataError(
            f"more than {MOST:,} {what}, which is all that one run takes",
            where=f"{count:,} {what}",
            hint="pack the files in several runs, and join the packed datasets with `tokpack merge`",
        )
