"""Token slots a training run pays for: padded, padded by batch, sorted, packed, packed and cleaned.

A slot is a place in a row, whether a token stands in it or not. Trainers that pad compute every slot; packed
rows that are flattened, as ours, compute their tokens alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from tokpack.arrays import Int64, Integers
from tokpack.errors import UsageError
from tokpack.frozen import frozen
from tokpack.ranges import counted_in

PADDED_MAX = "padded to max"
PADDED_LONGEST = "padded to longest"
PADDED_SORTED = "padded to longest, sorted by length"
PACKED = "packed"
PACKED_CLEANED = "packed and cleaned"


@frozen(kw_only=True)
class SlotRow:
    """One way to batch the same documents, an epoch."""

    name: str
    rows: int
    steps: int
    """Batches of `batch_size` rows; accumulation and GPUs are the run plan's affair."""
    slots: int
    content: int
    """Tokens of the documents themselves, after the cut at capacity."""
    truncated: int
    """Tokens cut because a document is longer than capacity."""
    make_widths: Callable[[], Int64] = field(compare=False, repr=False)

    @property
    def widths(self) -> Int64:
        """Lengths that attention runs over: the padded widths, or the documents of packed rows. Made when
        they are asked for: as many numbers as there are documents."""
        return self.make_widths()

    @property
    def fill(self) -> float:
        """Content tokens over slots."""
        return self.content / self.slots if self.slots else 0.0


def slot_table(
    lengths: ArrayLike,
    capacity: int,
    batch_size: int,
    packed_rows: int,
    *,
    cleaned_lengths: ArrayLike | None = None,
    cleaned_rows: int | None = None,
) -> list[SlotRow]:
    """The table, in the order of this module's names; the last row only with `cleaned_lengths`.

    `packed_rows` and `cleaned_rows` come from a pack plan for `capacity`. `batch_size` counts rows. Lengths
    above capacity are cut to it, in every row alike. Raises UsageError for numbers that cannot be.

    100,000 documents of 800 tokens at 2048: 204.8M slots padded to max, 39 % fill.
    """
    cut, truncated = _cut(lengths, capacity)
    table = [
        *padded_rows(lengths, capacity, batch_size),
        _padded(PADDED_SORTED, cut, _longest_sorted(cut, batch_size), batch_size, truncated),
        _packed(PACKED, cut, packed_rows, capacity, batch_size, truncated),
    ]
    if cleaned_lengths is not None:
        if cleaned_rows is None:
            raise UsageError("cleaned lengths without their packed rows", where="cleaned_rows")
        kept, lost = _cut(cleaned_lengths, capacity)
        table.append(_packed(PACKED_CLEANED, kept, cleaned_rows, capacity, batch_size, lost))
    return table


def padded_rows(lengths: ArrayLike, capacity: int, batch_size: int) -> list[SlotRow]:
    """The first two of the table."""
    if capacity < 1 or batch_size < 1:
        raise UsageError("capacity and batch size must be at least 1", where=f"{capacity=}, {batch_size=}")
    cut, truncated = _cut(lengths, capacity)
    widest = np.broadcast_to(np.int32(capacity), -(-cut.size // batch_size))
    return [
        _padded(PADDED_MAX, cut, widest, batch_size, truncated),
        _padded(PADDED_LONGEST, cut, _longest(cut, batch_size), batch_size, truncated),
    ]


def _cut(lengths: ArrayLike, capacity: int) -> tuple[Integers, int]:
    array = np.asarray(lengths)
    if array.dtype != np.int32:
        array = array.astype(np.int64)
    if array.ndim != 1 or (array.size and array.min() < 0):
        raise UsageError("lengths must be a flat list of token counts from 0 up", where="lengths")
    cut = np.minimum(array, capacity) if array.max(initial=0) > capacity else array
    return cut, int(array.sum(dtype=np.int64) - cut.sum(dtype=np.int64))


def _longest(lengths: Integers, batch_size: int) -> Integers:
    """Of each batch of consecutive documents."""
    full = lengths.size // batch_size * batch_size
    longest = lengths[:full].reshape(-1, batch_size).max(axis=1)
    return longest if full == lengths.size else np.append(longest, lengths[full:].max())


def _longest_sorted(lengths: Integers, batch_size: int) -> Integers:
    """Of each batch, where the longest documents come first; counted, as a sorted copy takes memory."""
    counts = counted_in(lengths, int(lengths.max(initial=0)) + 1)[::-1]
    batches_before = -(-np.cumsum(counts) // batch_size)
    return np.repeat(np.arange(len(counts), dtype=np.int32)[::-1], np.diff(batches_before, prepend=0))


def _padded(name: str, cut: Integers, longest: Integers, batch_size: int, truncated: int) -> SlotRow:
    """Each document as wide as the `longest` of its batch."""
    documents = cut.size
    missing = len(longest) * batch_size - documents
    last = int(longest[-1]) if documents else 0
    return SlotRow(
        name=name,
        rows=documents,
        steps=len(longest),
        slots=batch_size * int(longest.sum(dtype=np.int64)) - missing * last,
        content=int(cut.sum(dtype=np.int64)),
        truncated=truncated,
        make_widths=lambda: np.repeat(longest.astype(np.int64), batch_size)[:documents],
    )


def _packed(name: str, cut: Integers, rows: int, capacity: int, batch_size: int, truncated: int) -> SlotRow:
    """Rows of a plan. Raises UsageError where they cannot hold the documents."""
    content = int(cut.sum(dtype=np.int64))
    if rows * capacity < content or rows < 0:
        raise UsageError(
            f"{rows} rows of {capacity} slots cannot hold {content} tokens",
            where="packed_rows",
            hint="rows and lengths must come from the same pack plan",
        )
    return SlotRow(
        name=name,
        rows=rows,
        steps=-(-rows // batch_size),
        slots=rows * capacity,
        content=content,
        truncated=truncated,
        make_widths=partial(cut.astype, np.int64),
    )
